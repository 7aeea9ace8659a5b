"""Tables say what the rows say, mix nothing, and never take a failed run for a zero."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bench_rows import arena, failed, row, run
from otpr.errors import OtprError
from otpr_bench.estimates import interquartile_difference, success
from otpr_bench.markdown import blocks, markdown, update_page
from otpr_bench.study import gather, method_name, newest
from otpr_bench.tables import (
    Table,
    aggregate_table,
    choice_table,
    comparisons,
    failure_table,
    improvement_table,
    points,
    return_table,
    success_table,
    where_ours_loses,
)

PEG, CAN = "metaworld/peg-insert-side-v3", "robosuite/can"


def cell(table: Table, method: str, column: str) -> str:
    line = next(line for line in table.rows if line[0] == method)
    return line[table.header.index(column)]


def small() -> list:
    """Ours against fql, ahead on one task and behind on the other, where one run of fql failed."""
    rows = []
    for seed in range(3):
        rows += run("otpr", [0.3, 0.6, 0.9], task=PEG, seed=seed)
        rows += run("otpr", [0.3, 0.4, 0.2], task=CAN, seed=seed)
        rows += run("fql", [0.3, 0.8, 0.3 + 0.01 * seed], task=PEG, seed=seed)
    for seed in range(2):
        rows += run("fql", [0.3, 0.5, 0.8], task=CAN, seed=seed)
    return [*rows, failed("fql", "it | broke\nhere", task=CAN, seed=2)]


# ------------------------------------------------------------------------------------------- gathering


def test_runs_hold_their_rows_in_the_order_of_steps():
    study = gather(reversed(small()))
    first = study.finished("fql", CAN)[0]
    assert (study.suite, study.tasks, study.methods) == ("arena-6", (PEG, CAN), ("otpr", "fql"))
    assert (first.steps, first.success) == ((0, 25_000, 50_000), (0.3, 0.5, 0.8))
    assert first.final == 0.8
    assert first.minutes[-1] == pytest.approx(190 / 60)
    assert [one.seed for one in study.failures] == [2]


def test_methods_are_listed_ours_first_and_presets_beside():
    rows = [one for name in ("qc", "zzz", "otpr:paper", "bc", "otpr") for one in run(name, [0.5, 0.6])]
    assert gather(rows).methods == ("otpr", "otpr:paper", "bc", "qc", "zzz")
    assert method_name("otpr", "default") == "otpr"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"result_version": "aaaaaaaaaaaa"}, "different versions"),
        ({"settings": "aaaaaaaaaaaa"}, "different settings"),
        ({"base": "aaaaaaaaaaaa"}, "different base policies"),
        ({"end": 20_000}, "different final steps"),
    ],
)
def test_runs_that_do_not_compare_are_refused(changes, what):
    rows = [*run("otpr", [0.3, 0.5]), *run("otpr", [0.3, 0.5], seed=1, **changes)]
    with pytest.raises(OtprError, match=what):
        gather(rows)


def test_other_methods_may_have_other_versions_but_no_other_base_or_end():
    first = run("otpr", [0.3, 0.5])
    gather([*first, *run("fql", [0.3, 0.5], result_version="aaaaaaaaaaaa")])
    gather([*first, *run("bc", [0.3])])
    with pytest.raises(OtprError, match="otpr on metaworld/assembly-v3 have different versions"):
        gather([*first, *run("otpr:paper", [0.3, 0.5], result_version="aaaaaaaaaaaa")])
    for changes in ({"base": "aaaaaaaaaaaa"}, {"end": 20_000}):
        with pytest.raises(OtprError, match="must not mix"):
            gather([*first, *run("fql", [0.3, 0.5], **changes)])


def test_rows_that_cannot_be_are_refused():
    with pytest.raises(OtprError, match="twice"):
        gather([*run("otpr", [0.3, 0.5]), row()])
    with pytest.raises(OtprError, match="at step 0; the first is at 50,000"):
        gather([row()])
    with pytest.raises(OtprError, match="no results yet"):
        gather([])


def test_newest_keeps_what_was_started_last_and_belongs_together():
    def dated(day: int, *of, **changes):
        return run(*of, started=f"2026-11-{day:02}T10:00:00+00:00", **changes)

    old = dated(10, "otpr", [0.3, 0.1], result_version="aaaaaaaaaaaa")
    new = dated(12, "otpr", [0.3, 0.5], seed=1)
    other = dated(11, "fql", [0.3, 0.4], result_version="bbbbbbbbbbbb")
    stale = dated(9, "qc", [0.3, 0.4], base="cccccccccccc")
    paper = dated(8, "otpr:paper", [0.3, 0.0])
    old_paper = dated(7, "otpr:paper", [0.3, 0.0], seed=1, settings="dddddddddddd")
    kept = newest([*old, *new, *other, *stale, *old_paper, *paper])
    assert sorted(kept, key=repr) == sorted([*new, *other, *paper], key=repr)
    gather(kept)


# ------------------------------------------------------------------------------------------- tables


def test_success_is_that_of_the_last_evaluation_with_its_seeds_and_gaps():
    study = gather(small())
    table = success_table(study)
    group = study.rates("fql", PEG)
    assert group is not None and group.rates == [0.3, 0.31, 0.32]
    _, low, high = success(group, study.spread("fql"))
    assert cell(table, "fql", PEG) == f"31% [{100 * low:.0f}, {100 * high:.0f}] (3)"
    assert cell(table, "fql", CAN).startswith("80% [") and cell(table, "fql", CAN).endswith("] (2, 1 failed)")
    assert cell(table, "otpr", CAN).startswith("20% [")


def test_a_method_whose_runs_all_failed_has_no_success_rather_than_zero():
    rows = [*run("otpr", [0.3, 0.5]), *run("otpr", [0.3, 0.5], seed=1), failed("fql", "broke")]
    study = gather(rows)
    assert cell(success_table(study), "fql", study.tasks[0]) == "1 failed, 1 not done"
    line = next(line for line in aggregate_table(study).rows if line[0] == "fql")
    assert line == ("fql", *["-"] * 6, "0", "2")
    assert improvement_table(study).rows == (("fql", "-", "-", "2"),)


def test_what_choosing_adds_to_one_sample_is_of_the_last_evaluations_that_have_both():
    rows = []
    for seed, (deployed, single) in enumerate([(0.9, 0.6), (0.7, 0.8)]):
        *before, last = run("otpr", [0.3, deployed], task=PEG, seed=seed)
        rows += [*before, dataclasses.replace(last, success_single=single)]
    *before, last = run("idql", [0.3, 0.5], task=PEG)
    rows += [*before, dataclasses.replace(last, success_single=0.62)]
    *before, last = run("dppo", [0.3, 0.5], task=PEG)  # deploys one sample
    rows += [*before, dataclasses.replace(last, success_single=0.5)]
    rows += [*run("idql", [0.3, 0.5], task=CAN), failed("qc", "broke", task=PEG)]
    table = choice_table(gather(rows))
    assert table.header == ("method", PEG, CAN)
    assert table.rows == (("otpr", "70% (+10)", ""), ("idql", "62% (-12)", ""))


def test_returns_are_shown_where_a_task_pays_for_more_than_success():
    kitchen = "kitchen/complete"
    rows = []
    for seed, back in enumerate((2.5, 3.0)):
        first, last = run("otpr", [0.1, 0.4], task=kitchen, seed=seed)
        rows += [first, dataclasses.replace(last, mean_return=back, mean_return_single=back - 0.5)]
        first, last = run("dppo", [0.1, 0.2], task=kitchen, seed=seed)
        rows += [first, dataclasses.replace(last, mean_return=1.5, mean_return_single=1.5)]
        for method in ("otpr", "dppo"):
            first, last = run(method, [0.1, 0.4], task=CAN, seed=seed)
            rows += [first, dataclasses.replace(last, mean_return=0.4)]
    table = return_table(gather(rows))
    assert table.header == ("method", kitchen)
    assert table.rows == (("otpr", "2.75 (2.50, 3.00); 2.25"), ("dppo", "1.50 (1.50, 1.50)"))
    assert "2.75" in blocks(gather(rows))["arena-6:return"]
    plain = [one for one in rows if one.task == CAN]
    assert return_table(gather(plain)).rows == ()
    assert blocks(gather(plain))["arena-6:return"] == "Every task pays 1 for success and nothing else."


def test_aggregates_over_all_tasks():
    table = aggregate_table(gather(small()))
    # the middle half of .2 .2 .2 .9 .9 .9
    assert cell(table, "otpr", "interquartile mean").startswith("55% [")
    # trapezoids: (.3 + .6) / 4 + (.6 + .9) / 4 = .6 and .325
    assert cell(table, "otpr", "area under curve") == "0.46"
    assert cell(table, "otpr", "steps to 50%") == "25,000 (3 of 6)"
    assert cell(table, "otpr", "steps to 90%") == "50,000 (3 of 6)"
    assert cell(table, "fql", "steps to 50%") == "25,000 (5 of 5)"
    assert cell(table, "fql", "steps to 75%") == "25,000 (5 of 5)"
    assert cell(table, "fql", "steps to 90%") == "- (0 of 5)"
    assert cell(table, "otpr", "minutes") == "3.2"
    assert [cell(table, "fql", name) for name in ("runs", "missing")] == ["5", "1"]


def test_imitation_alone_counts_as_constant_until_the_end():
    rows = [*run("otpr", [0.3, 0.5], seed=0), *run("bc", [0.3], seed=0)]
    table = aggregate_table(gather(rows))
    assert cell(table, "bc", "area under curve") == "0.30"
    assert cell(table, "bc", "steps to 50%") == "- (0 of 1)"


def test_wall_clock_of_several_machines_is_not_passed_off_as_one():
    rows = [*run("otpr", [0.3, 0.5]), *run("fql", [0.3, 0.5], machine="Other CPU, 64 cores")]
    note = aggregate_table(gather(rows)).note
    assert "several machines (Made-up CPU, 2 cores; Other CPU, 64 cores)" in note
    assert "machines" not in aggregate_table(gather(small())).note


def test_runs_with_several_versions_of_packages_are_pointed_out():
    rows = [*run("otpr", [0.3, 0.5]), *run("fql", [0.3, 0.5], packages="jax 9, numpy 0.0.2")]
    note = aggregate_table(gather(rows)).note
    assert note.endswith("The versions of packages differ between the runs on metaworld/assembly-v3.")
    rows = [*run("otpr", [0.3, 0.5]), *run("fql", [0.3, 0.5], packages="")]
    assert "packages" not in aggregate_table(gather(rows)).note


def test_improvement_compares_ours_with_every_other():
    table = improvement_table(gather(small()))
    # always above on one task, never on the other; the middle half of .3 .31 .32 .8 .8
    assert cell(table, "fql", "P(otpr ends above it)").startswith("0.50")
    assert cell(table, "fql", "missing runs") == "1"


def test_comparisons_and_where_ours_loses():
    study = gather(small())
    peg, can = comparisons(study)
    assert (peg.task, peg.clear, can.clear) == (PEG, True, True)
    assert can.difference.value == pytest.approx(-0.6)
    first, over_all, on_peg, on_can = where_ours_loses(study)
    assert "clearly ahead in 1 of 2 comparisons, clearly behind in 1, and 0 are undecided" in first
    assert over_all.startswith("Over all tasks")
    assert on_peg == f"{PEG}: behind nobody."
    assert re.fullmatch(
        rf"{CAN}: 20%, behind fql \(80%\) by 60 \[\d+, \d+\] points, 1 of its runs missing\.", on_can
    )


def test_methods_at_or_below_the_pretrained_policy_do_not_count_unless_they_are_ahead():
    rows = []
    for seed in range(3):
        for method, end in {"otpr": 0.9, "fql": 0.31, "bc": 0.3, "rlpd": 0.0}.items():
            rows += run(method, [0.3, end], task=PEG, seed=seed)
        for method, end in {"otpr": 0.1, "fql": 0.2, "bc": 0.3, "rlpd": 0.0}.items():
            rows += run(method, [0.3, end], task=CAN, seed=seed)
    study = gather(rows)
    assert [study.pretrained(task) for task in (PEG, CAN)] == [0.3, 0.3]
    counted = {(one.method, one.task) for one in comparisons(study) if one.counts}
    assert counted == {("fql", PEG), ("fql", CAN), ("bc", CAN)}
    alone = gather([*run("otpr", [0.3, 0.9]), *run("bc", [0.35]), *run("qc", [0.3, 0.34])])
    assert not any(one.counts for one in comparisons(alone))
    headline, *_ = where_ours_loses(study)
    assert "clearly ahead in 1 of 3 comparisons" in headline
    assert "ends above the task's pre-trained policy (or above otpr); 3 others are left out" in headline


def test_labels_show_what_differs_from_the_default():
    names = ("otpr", "otpr:paper", "otpr:default:a=1", "otpr:default:a=1:b=2:c=3", "fql:default:a=1:b=2")
    study = gather([one for name in names for one in run(name, [0.3, 0.5])])
    assert [study.labels[name] for name in names] == [
        "otpr",
        "otpr:paper",
        "otpr a=1",
        "otpr a=1 ... c=3",
        "fql a=1 b=2",
    ]
    alike = ("otpr:default:a=1:b=2:c=3", "otpr:default:a=1:b=4:c=3")
    study = gather([one for name in alike for one in run(name, [0.3, 0.5])])
    assert study.labels == {name: name for name in alike}


def test_a_method_that_is_better_everywhere_is_told_over_all_tasks():
    rows = []
    for seed, task in enumerate((PEG, CAN)):
        for shift in (0.0, 0.02):
            rows += run("otpr", [0.3, 0.5 + shift], task=task, seed=round(100 * shift) + seed)
            rows += run("fql", [0.3, 0.8 + shift], task=task, seed=round(100 * shift) + seed)
    study = gather(rows)
    gap = points(interquartile_difference(*map(study.rates_by_task, ("otpr", "fql"))), signed=True)
    assert gap.startswith("-30 [")
    assert improvement_table(study).rows == (("fql", "0.00 [0.00, 0.00]", gap, "0"),)
    over_all = where_ours_loses(study)[1]
    assert re.fullmatch(
        r"Over all tasks \(51% \[\d+, \d+\]\) otpr is behind fql by 30 \[\d+, \d+\] points in "
        r"interquartile mean\.",
        over_all,
    )


def test_methods_that_are_not_done_are_not_passed_off_as_beaten_over_all_tasks():
    ours = [*run("otpr", [0.3, 0.5], task=PEG), *run("otpr", [0.3, 0.5], task=CAN)]
    lacking = [*run("fql", [0.3, 0.5], task=PEG)]
    left_out = "Left out: {} methods, without a finished run on some task."
    assert where_ours_loses(gather([*ours, *lacking]))[1] == (
        f"Over all tasks (50%) there is nothing to compare. {left_out.format('1 of 1')}"
    )
    worse = [*run("bc", [0.3], task=PEG), *run("bc", [0.3], task=CAN)]
    assert where_ours_loses(gather([*ours, *lacking, *worse]))[1] == (
        f"Over all tasks (50%) no method has a higher interquartile mean. {left_out.format('1 of 2')}"
    )


def test_a_loss_within_the_noise_is_called_undecided():
    rows = []
    for seed, (ours, theirs) in enumerate([(0.3, 0.9), (0.5, 0.4), (0.7, 0.6)]):
        rows += run("otpr", [0.3, ours], seed=seed) + run("fql", [0.3, theirs], seed=seed)
    *_, line = where_ours_loses(gather(rows))
    assert "by 13 [-" in line and "(undecided)" in line


def test_results_without_ours_or_without_some_of_ours_say_so():
    assert where_ours_loses(gather(run("fql", [0.3, 0.5]))) == ["These results hold no runs of otpr."]
    lacking = [*run("otpr", [0.3, 0.5], task=PEG), *run("fql", [0.3, 0.5], task=CAN)]
    lines = where_ours_loses(gather(lacking))
    assert f"{CAN}: no finished run of otpr." in lines
    assert "No aggregate: otpr lacks finished runs on some task." in lines


def test_markdown_of_a_hostile_error_stays_one_cell():
    text = markdown(failure_table(gather(small())))
    assert text.splitlines()[2] == f"| fql | {CAN} | 2 | it \\| broke here |"


def test_tables_are_rectangular():
    study = gather(arena())
    for table in (success_table(study), aggregate_table(study), improvement_table(study)):
        assert {len(line) for line in table.rows} == {len(table.header)}


# ------------------------------------------------------------------------------------------- pages

PAGE = """# Results
<!-- bench:arena-6:tasks -->
old
<!-- /bench -->
kept
<!-- bench:smoke:tasks -->
of another suite
<!-- /bench -->
<!-- bench:arena-6:losses -->
<!-- /bench -->
"""


def test_a_page_is_filled_between_its_marks_and_only_there(tmp_path: Path):
    page = tmp_path / "results.md"
    page.write_text(PAGE)
    texts = blocks(gather(small()))
    assert update_page(page, texts)
    filled = page.read_text()
    assert "\nold\n" not in filled
    assert f"<!-- bench:arena-6:tasks -->\n{texts['arena-6:tasks']}\n<!-- /bench -->\nkept\n" in filled
    assert f"<!-- bench:arena-6:losses -->\n{texts['arena-6:losses']}\n<!-- /bench -->" in filled
    assert "<!-- bench:smoke:tasks -->\nof another suite\n<!-- /bench -->" in filled
    assert not update_page(page, texts)
    assert page.read_text() == filled
    assert [file.name for file in tmp_path.iterdir()] == ["results.md"]


@pytest.mark.parametrize(
    ("page", "match"),
    [
        ("<!-- bench:arena-6:tasks -->\n", "needs a `<!-- /bench -->`"),
        (
            "<!-- bench:arena-6:tasks --><!-- bench:arena-6:losses --><!-- /bench -->",
            "needs a `<!-- /bench -->`",
        ),
        ("<!-- /bench -->", "needs a `<!-- /bench -->`"),
        ("<!-- bench:arena-6:task --><!-- /bench -->", "'arena-6:task'; known are arena-6:aggregate"),
    ],
)
def test_broken_marks_are_refused_and_change_nothing(tmp_path: Path, page: str, match: str):
    file = tmp_path / "results.md"
    file.write_text(page)
    with pytest.raises(OtprError, match=match):
        update_page(file, blocks(gather(small())))
    assert file.read_text() == page


def test_a_text_with_backslashes_is_put_in_as_it_is(tmp_path: Path):
    file = tmp_path / "page.md"
    file.write_text("<!-- bench:a:b --><!-- /bench -->")
    update_page(file, {"a:b": r"\1 \g<0> \|"})
    assert file.read_text() == "<!-- bench:a:b -->\n\\1 \\g<0> \\|\n<!-- /bench -->"
