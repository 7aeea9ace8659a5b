"""Pictures of many runs: where their lines and bars are, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench_rows import failed, run
from otpr.errors import OtprError
from otpr_bench.figures import (
    curve,
    draw_all,
    interquartile_means,
    learning_curves,
)
from otpr_bench.plots import Plot
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


def points(plot: Plot, name: str) -> tuple[list[float], list[float]]:
    """x and y of the series of that name."""
    (found,) = [one for one in plot.series if one.name == name]
    return list(found.x), list(found.y)


def test_curves_are_means_over_seeds():
    steps, rates = curve(study(), "otpr", PEG) or ([], np.zeros(0))
    assert steps == [0, 25_000, 50_000]
    assert rates.mean(axis=0) == pytest.approx([0.3, 0.5, 0.75])
    can, peg = sorted(learning_curves(study()), key=lambda plot: plot.title, reverse=True)
    assert (can.title, peg.title) == (CAN, PEG)
    x, y = points(peg, "otpr")
    assert (x, y) == (steps, pytest.approx([0.3, 0.5, 0.75]))
    (ours,) = [one for one in peg.series if one.name == "otpr"]
    assert (list(ours.low), list(ours.high)) == ([0.3, 0.5, 0.7], [0.3, 0.5, pytest.approx(0.8)])
    assert ours.cells == ["30.0% (30%, 30%)", "50.0% (50%, 50%)", "75.0% (70%, 80%)"]
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


def test_every_picture_is_drawn_whole_or_not_at_all(tmp_path: Path):
    paths = draw_all(study(), tmp_path / "figures")
    assert [path.name for path in paths] == ["curves.png", "interquartile.png"]
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
