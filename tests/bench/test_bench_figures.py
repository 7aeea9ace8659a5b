"""Pictures of many runs: where their lines and bars are, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench_rows import failed, run
from otpr.errors import OtprError
from otpr_bench.figures import (
    curve,
    draw_all,
    interquartile_means,
    learning_curves,
    over_time,
    profiles,
    success_over_time,
)
from otpr_bench.study import Study, gather

PEG, CAN = "metaworld/peg-insert-side-v3", "robosuite/can"


def study(**more: list) -> Study:
    rows = []
    for seed in range(2):
        rows += run("otpr", [0.3, 0.5, 0.7 + 0.1 * seed], task=PEG, seed=seed)
        rows += run("otpr", [0.4, 0.6, 0.9], task=CAN, seed=seed, end=20_000)
        rows += run("fql", [0.3, 0.2, 0.2], task=PEG, seed=seed)
        rows += run("fql", [0.4, 0.4, 0.4], task=CAN, seed=seed, end=20_000)
        rows += run("bc", [0.3], task=PEG, seed=seed) + run("bc", [0.4], task=CAN, seed=seed)
    return gather([*rows, failed("qc", "broke", task=PEG), *more.get("rows", [])])


def lines(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of the lines of a panel by their colour."""
    found = {}
    for line in figure.axes[panel].get_lines():
        found[line.get_color()] = (list(line.get_xdata()), list(line.get_ydata()))
    return found


def test_curves_are_means_over_seeds():
    steps, rates = curve(study(), "otpr", PEG) or ([], np.zeros(0))
    assert steps == [0, 25_000, 50_000]
    assert rates.mean(axis=0) == pytest.approx([0.3, 0.5, 0.75])
    x, y = lines(learning_curves(study()))["#0072B2"]
    assert (x, y) == (steps, pytest.approx([0.3, 0.5, 0.75]))
    assert curve(study(), "qc", PEG) is None


def test_imitation_alone_is_a_level_line_to_the_end_of_its_task():
    found = study()
    for task, end, rate in ((PEG, 50_000, 0.3), (CAN, 20_000, 0.4)):
        steps, rates = curve(found, "bc", task) or ([], np.zeros(0))
        assert steps == [0, end]
        assert (rates == rate).all()


def test_runs_that_were_evaluated_at_different_steps_share_some():
    rows = run("otpr", [0.3, 0.4, 0.5, 0.6, 0.7], task=PEG, seed=2)
    steps, rates = curve(study(rows=rows), "otpr", PEG) or ([], np.zeros(0))
    assert steps == [0, 25_000, 50_000]
    assert list(rates[2]) == [0.3, 0.5, 0.7]


def test_bars_are_interquartile_means_in_order_and_skip_who_lacks_a_task():
    axes = interquartile_means(study()).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["fql", "bc", "otpr"]
    widths = [bar.get_width() for bar in axes.patches]
    # of otpr the middle half of .7 .8 .9 .9
    assert widths == pytest.approx([0.3, 0.35, 0.85])


def test_profiles_fall_from_one_to_zero():
    x, y = lines(profiles(study()))["#0072B2"]
    by_threshold = dict(zip(np.round(x, 2), y, strict=True))
    assert [by_threshold[t] for t in (0.0, 0.68, 0.7, 0.8, 0.88, 0.9)] == pytest.approx(
        [1, 1, 0.75, 0.5, 0.5, 0]
    )


def test_success_over_time_weighs_tasks_alike():
    minutes, success = over_time(study(), "otpr")
    assert minutes[[0, -1]] == pytest.approx([0.5, 190 / 60])
    assert success[[0, -1]] == pytest.approx([0.35, 0.825])
    x, y = lines(success_over_time(study()))["#0072B2"]
    assert (x[-1], y[-1]) == (pytest.approx(190 / 60), pytest.approx(0.825))


def test_every_picture_is_drawn_whole_or_not_at_all(tmp_path: Path):
    paths = draw_all(study(), tmp_path / "figures")
    assert [path.name for path in paths] == ["curves.png", "interquartile.png", "profiles.png", "time.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(2**24)) > 50


def test_without_a_method_on_every_task_there_are_curves_alone(tmp_path: Path):
    rows = [*run("otpr", [0.3, 0.5], task=PEG), *run("fql", [0.3, 0.5], task=CAN)]
    assert [path.name for path in draw_all(gather(rows), tmp_path)] == ["curves.png"]


def test_failed_runs_alone_are_not_drawn(tmp_path: Path):
    with pytest.raises(OtprError, match="nothing to draw"):
        draw_all(gather([failed("otpr", "broke")]), tmp_path)
    assert list(tmp_path.iterdir()) == []
