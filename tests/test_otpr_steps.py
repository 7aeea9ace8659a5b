"""The picture of what OTPR does: its transport is one, and the picture is small and is that of the page."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / "examples" / "otpr_steps.py"))


def test_a_way_through_the_wall_is_worth_nothing() -> None:
    ways = SCRIPT["paths"](np.array([0.0, 0.0]), np.array([[[0.2, 0.0]] * 4, [[0.2, 0.3]] * 4]))
    through_gap, through_wall = SCRIPT["value"](ways)
    assert through_gap > 0.7
    assert through_wall == 0


def test_the_choice_is_the_most_central_of_the_better_half_and_worth_more_than_most() -> None:
    toy = SCRIPT["solve"]()
    np.testing.assert_allclose(toy.H.mean(axis=1), 1, atol=1e-4)
    assert np.mean(toy.H > 0) < 0.5
    above = []
    for chunks, excess, q, choice in zip(
        toy.chunks, toy.own(toy.excess), toy.own(toy.q), toy.choice, strict=True
    ):
        better = np.argsort(excess)[len(excess) // 2 :]
        far = [sum(np.linalg.norm(chunks[i] - chunks[j]) for j in better) for i in better]
        assert choice == better[np.argmin(far)]
        if q.max() > 0:  # elsewhere every candidate runs into the wall
            above.append(np.sum(q > q[choice]))
    assert len(above) > 0.8 * len(toy.states)
    assert max(above) < toy.chunks.shape[1] / 2
    assert np.mean(above) < 1.5


def test_the_picture_is_small_and_drawn_again(tmp_path: Path) -> None:
    file = tmp_path / "steps.png"
    SCRIPT["draw"](SCRIPT["solve"](), file)
    for picture in (file, ROOT / "docs" / "otpr_steps.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert 20_000 < picture.stat().st_size < 200_000
    assert "](otpr_steps.png)" in (ROOT / "docs" / "index.md").read_text()


def test_the_film_of_the_readme_is_small() -> None:
    film = ROOT / "docs" / "before_after.gif"
    assert film.read_bytes().startswith(b"GIF89a")
    assert film.stat().st_size < 1_000_000
    assert "](docs/before_after.gif)" in (ROOT / "README.md").read_text()
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
