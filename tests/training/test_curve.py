from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from otpr.errors import OtprError
from otpr.training.curve import learning_curve

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def evaluation(env_steps: int, rate: float, single: float, episodes: int = 100) -> dict[str, Any]:
    return {
        "env_steps": env_steps,
        "eval/success_rate": rate,
        "eval/success_rate_single": single,
        "eval/episodes": episodes,
    }


ROWS = [evaluation(0, 0.3, 0.3), {"env_steps": 500, "loss": 2.0}, evaluation(1000, 0.8, 0.5)]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def pixels_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Row and column of every pixel of exactly this colour."""
    return np.argwhere((pixels == colour).all(axis=-1))


def test_both_success_curves_are_drawn_the_higher_rate_higher_up(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "curve.png"
    learning_curve(ROWS, path, title="a task")
    pixels = picture(path)
    assert pixels.shape == (630, 1050, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    # At the right end, where 80% and 50% are far apart.
    right = pixels[:, 800:]
    assert pixels_of(right, BLUE)[:, 0].mean() < pixels_of(right, ORANGE)[:, 0].mean() - 50
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]


def test_band_is_the_wilson_interval(tmp_path: Path):
    def band_height(episodes: int) -> int:
        rows = [{"env_steps": step, "eval/success_rate": 0.5, "eval/episodes": episodes} for step in (0, 900)]
        learning_curve(rows, tmp_path / "curve.png", title="")
        column = picture(tmp_path / "curve.png")[:, 550].astype(int)
        blue_at_18_percent = (209, 230, 241)
        band = np.flatnonzero(np.abs(column - blue_at_18_percent).max(axis=-1) <= 2)
        return band.max() - band.min()

    # 50 of 100: from 0.4038 to 0.5962; 5 of 10: from 0.2366 to 0.7634.
    assert band_height(10) / band_height(100) == pytest.approx(0.5268 / 0.1924, rel=0.03)


def test_base_success_is_drawn_as_a_line(tmp_path: Path):
    learning_curve(ROWS, tmp_path / "without.png", title="")
    learning_curve(ROWS, tmp_path / "with.png", title="", base_success=0.1)
    grey = (89, 89, 89)
    assert len(pixels_of(picture(tmp_path / "with.png"), grey)) > 300
    assert len(pixels_of(picture(tmp_path / "without.png"), grey)) < 20


def test_values_that_were_not_finite_are_left_out(tmp_path: Path):
    learning_curve(ROWS, tmp_path / "plain.png", title="")
    gaps = [
        *ROWS,
        {**evaluation(2000, 0.1, 0.1), "eval/success_rate": None, "eval/success_rate_single": None},
    ]
    learning_curve(gaps, tmp_path / "gaps.png", title="")
    assert np.array_equal(picture(tmp_path / "plain.png"), picture(tmp_path / "gaps.png"))


def test_single_evaluation_at_the_very_start_can_be_drawn(tmp_path: Path):
    learning_curve([evaluation(0, 1.0, 0.0, 3)], tmp_path / "curve.png", title="")
    assert len(pixels_of(picture(tmp_path / "curve.png"), BLUE)) > 20


def test_run_without_evaluations_is_an_error_and_writes_nothing(tmp_path: Path):
    with pytest.raises(OtprError, match="no evaluation"):
        learning_curve([{"env_steps": 1, "loss": 2.0}], tmp_path / "curve.png", title="")
    assert list(tmp_path.iterdir()) == []


def test_evaluation_without_its_number_of_episodes_is_an_error(tmp_path: Path):
    with pytest.raises(OtprError, match="'eval/success_rate' but no 'eval/episodes'"):
        learning_curve([{"env_steps": 1, "eval/success_rate": 0.5}], tmp_path / "curve.png", title="")
