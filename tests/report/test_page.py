"""The report as text: it holds the numbers of the run, and nothing of a run's files becomes HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from bench_rows import arena, failed, run
from otpr.errors import OtprError
from otpr.training.run_directory import RunDirectory
from otpr_bench.report import page_run
from otpr_bench.report.charts import FEW, Line, Look, Series, chart, short
from otpr_bench.report.command import Report
from otpr_bench.report.html import Html, join, table, tag
from otpr_bench.report.metric_charts import POINTS
from otpr_bench.report.page import check_out
from otpr_bench.report.page_bench import bench_page, find_results
from otpr_bench.report.page_run import run_page
from otpr_bench.report.style import BLUE, styles
from otpr_bench.results import add_rows
from report_runs import CONFIG, SUMMARY, VERSIONS, evaluation, make_run, metrics

HOSTILE = (
    """</script></title><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'"&\u2028"""
)


class Parsed(HTMLParser):
    """A page taken apart as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        self._open.append(name)
        if name == "tr":
            self.cells.append([])
        if name in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, name: str) -> None:
        if name in self._open:
            while self._open.pop() != name:
                pass

    def handle_data(self, text: str) -> None:
        within = self._open[-1] if self._open else ""
        if within in ("script", "style"):
            (self.scripts if within == "script" else self.styles).append(text)
            return
        self.texts.append(text)
        if {"td", "th"} & set(self._open):
            self.cells[-1][-1] += text

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def tips(parsed: Parsed, series: str) -> list[str]:
    """What the points of the series of that name say."""
    groups = [group for group in parsed.named("g") if group.get("data-name") == series]
    return [tip for group in groups for tip in json.loads(group["data-tips"] or "")]


# ------------------------------------------------------------------------------------------- building


def test_text_is_escaped_and_html_is_not():
    made = tag("p", "<b>&", tag("b", "x"), None, title='"<')
    assert made == '<p title="&quot;&lt;">&lt;b&gt;&amp;<b>x</b></p>'
    assert isinstance(made, Html)
    assert join(["<", Html("<br>")]) == "&lt;<br>"
    assert tag("meta", charset="utf-8", data_x=None, hidden=True) == '<meta charset="utf-8" hidden>'
    assert "&lt;i&gt;" in table(("<i>",), [("a",)], caption="<i>")


def line(values: list[float], **changes) -> Series:
    points = [float(place) for place in range(len(values))]
    return Series("one", points, values, [str(value) for value in values], Look(0, BLUE), **changes)


def shown(picture: Html) -> list[str]:
    return re.findall(r'class="tick[^"]*">([^<]*)<', picture)


def points(picture: Html) -> list[tuple[float, float]]:
    (text,) = re.findall(r'points="([^"]*)"', picture)
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_points_of_a_chart_are_where_the_axes_say():
    picture = chart([line([0.0, 0.5, 1.0])], title="t", x_label="x", share=True)
    places = points(picture)
    xs, ys = zip(*places, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    ticks = dict(re.findall(r'y="([\d.]+)" class="tick end">(\d+%)<', picture))
    by_percent = {percent: float(y) - 4 for y, percent in ticks.items()}
    assert ys == pytest.approx([by_percent["0%"], by_percent["50%"], by_percent["100%"]], abs=0.11)


def test_axis_is_logarithmic_where_values_span_decades():
    picture = chart([line([1e-4, 1e-2, 1.0])], title="t", x_label="x")
    assert [tick for tick in shown(picture) if tick in ("0.0001", "0.001", "0.01", "0.1", "1")]
    ys = [y for _, y in points(picture)]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)


@pytest.mark.parametrize("values", [[0.0], [0.3, 0.3], [-3e-8, 0.0], [-5.0, 5.0], [1e9, 2e9], [0.0, 1e-9]])
def test_any_values_stay_inside_the_chart(values):
    picture = chart([line(values)], title="t", x_label="x")
    for x, y in points(picture):
        assert 50 <= x <= 430 and 10 <= y <= 242


def test_ticks_of_almost_zero_do_not_reach_below_it():
    assert "-0.5" not in shown(chart([line([-3e-8, 2.0])], title="t", x_label="x"))


def test_lines_to_compare_with_are_inside_the_axis():
    picture = chart([line([0.05, 0.06])], title="t", x_label="x", lines=[Line(0.15, "bound")])
    y = float(re.findall(r'd="M52 ([\d.]+)H\d+" class="reference"', picture)[0])
    assert y < min(y for _, y in points(picture))


def test_few_points_are_marked_and_many_are_not():
    def marks(count: int) -> int:
        return chart([line([0.5] * count)], title="t", x_label="x").count('class="mark"')

    assert marks(FEW) == FEW
    assert marks(FEW + 1) == 0


def test_short_numbers():
    numbers = [0.0, -1e-17, 0.25, 1500.0, 2e6, 1e-5]
    assert [short(number) for number in numbers] == ["0", "0", "0.25", "1.5k", "2M", "1e-05"]


def test_eleven_methods_look_different_on_any_ground():
    looks = styles(["otpr", "otpr:paper", "bc", "idql", "dql", "dawr", "qsm", "dppo", "rlpd", "fql", "qc"])
    for ground in ("colour", "dark"):
        assert len({getattr(style, ground) for style in looks.values()}) == 11
    others = styles(["otpr", *(f"otpr:default:epsilon={number}" for number in range(20))])
    assert len({(style.colour, style.marker, style.dash) for style in others.values()}) == 21
    assert others["otpr"] == looks["otpr"]


# ------------------------------------------------------------------------------------------- a run


def test_page_of_a_run_holds_its_numbers(tmp_path: Path):
    parsed = Parsed(run_page(make_run(tmp_path / "peg")))
    text = parsed.text
    assert "otpr (default) on metaworld/peg-insert-side-v3" in text
    assert "Success went from 37% to 81% in 2,013 environment steps: +44 points" in text
    assert "clearly better" in text
    assert "0.085 (bound 0.15), below the bound" in text
    assert ["1,000", "62% [47, 76]", "58% [42, 71]", "40", "183.1", "13.9"] in parsed.cells
    assert ["keypoint_strategy", "all"] in parsed.cells
    assert ["env_steps", "2000"] in parsed.cells
    assert ["devices", "cpu:0"] in parsed.cells
    assert "1,000 steps: 62.5% of 40 episodes\n95% interval 47.0% to 75.8%" in tips(parsed, "as deployed")
    assert "250: 0.02" in tips(parsed, "Q")
    assert "1,500: 7.25" in tips(parsed, "mine/further")
    # what is no curve has none
    assert not tips(parsed, "ot/round") and not tips(parsed, "seconds")


def test_page_of_a_real_run_directory(tmp_path: Path):
    with RunDirectory.open(tmp_path / "real", command="finetune", config=CONFIG) as opened:
        for row in metrics():
            opened.log(row)
        opened.write_summary(SUMMARY)
    assert "Success went from 37% to 81%" in Parsed(run_page(tmp_path / "real")).text


def test_run_that_has_not_ended_says_so(tmp_path: Path):
    rows = metrics()[:-1]
    versions = [*VERSIONS, {**VERSIONS[0], "otpr": "0.2.0"}]
    parsed = Parsed(run_page(make_run(tmp_path / "run", rows=rows, versions=versions, summary=None)))
    assert "The run has not ended in 2 sittings" in parsed.text
    assert "so far, as deployed" in parsed.text
    assert ["otpr", "0.1.0", "0.2.0"] in parsed.cells


@pytest.mark.parametrize(
    ("before", "after", "verdict"), [(0.8, 0.3, "clearly worse"), (0.4, 0.45, "cannot be told from chance")]
)
def test_a_loss_and_a_doubtful_change_are_called_so(tmp_path: Path, before, after, verdict):
    rows = [evaluation(0, before, None), evaluation(2013, after, None)]
    text = Parsed(run_page(make_run(tmp_path / "run", rows=rows))).text
    assert verdict.replace("cannot be told", "no difference that can be told") in text


def test_what_makes_a_run_untrustworthy_is_said(tmp_path: Path):
    rows = [
        *metrics(),
        {"env_steps": 2013, "ot/marginal_error": 0.38, "ot/round": 9},
        {"env_steps": 2013, "updates": 9000, "critic/beyond_bound": 0.6},
        {"env_steps": 2013, "rollout/broken_episodes": 4},
    ]
    path = make_run(tmp_path / "run", rows=rows)
    (path / "faults").mkdir()
    (path / "faults" / "update-3017.safetensors").touch()
    text = Parsed(run_page(path)).text
    assert "in the last of 9 rounds: 0.380 (bound 0.15), above the bound" in text
    assert "beyond what rewards allow for 60% of pairs" in text
    assert "4 training episodes were lost" in text
    assert "update-3017.safetensors" in text


def test_run_without_evaluations_or_rows_has_a_page(tmp_path: Path):
    rows = [{"updates": 250 * number, "pretrain/loss": 0.5 / number} for number in (1, 2)]
    imitation = make_run(tmp_path / "pretrain", command="pretrain", config={}, rows=rows, summary=None)
    parsed = Parsed(run_page(imitation))
    assert "the loss went from 0.5 to 0.25 in 500 gradient steps" in parsed.text
    assert tips(parsed, "training") == ["250: 0.5", "500: 0.25"]
    assert "has not ended" not in parsed.text
    assert "has not ended" in Parsed(run_page(make_run(tmp_path / "empty", rows=[], summary=None))).text


def test_imitation_in_a_folder_of_the_run_is_shown(tmp_path: Path):
    path = make_run(tmp_path / "run", command="quickstart")
    rows = [{"updates": 250, "pretrain/loss": 0.5}]
    make_run(path / "pretrain", command="pretrain", rows=rows, summary=None)
    assert tips(Parsed(run_page(path)), "training") == ["250: 0.5"]


def test_numbers_that_were_not_finite_are_left_out(tmp_path: Path):
    rows = [*metrics(), {"env_steps": 1900, "critic/loss": None}, evaluation(1950, 0.5, None)]
    rows[-1]["eval/success_rate"] = None
    parsed = Parsed(run_page(make_run(tmp_path / "run", rows=rows)))
    assert len(tips(parsed, "as deployed")) == 3


def test_long_runs_are_thinned_to_means_and_their_page_stays_small(tmp_path: Path):
    path = make_run(tmp_path / "run", rows=metrics(updates=5000))
    text = run_page(path)
    assert len(text) < 2**20
    found = tips(Parsed(text), "policy loss")
    assert len(found) == POINTS
    # rows 1 to 25, at 250 to 6,250 gradient steps
    assert found[0] == "3,250: 0.28997 (mean of 25 rows)"


def test_a_peers_page_has_no_section_on_the_transport(tmp_path: Path):
    """Although every run counts decisions without a compatible candidate."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith("ot/")}
        | {"rollout/zero_compatibility": 0.0}
        for row in metrics()
    ]
    of_peer = Parsed(run_page(make_run(tmp_path / "peer", rows=rows))).text
    assert "Critic" in of_peer and "Optimal transport" not in of_peer
    assert "Optimal transport" in Parsed(run_page(make_run(tmp_path / "run", rows=metrics()))).text


def test_films_are_inside_the_page_unless_they_are_too_large(tmp_path: Path, monkeypatch):
    path = make_run(tmp_path / "run")
    (path / "videos").mkdir()
    (path / "videos" / "after.mp4").write_bytes(b"small film")
    (path / "videos" / "before.mp4").write_bytes(b"first")
    (path / "videos" / ".part-later.mp4").write_bytes(b"half")
    (path / "videos" / "large.mp4").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(page_run, "VIDEO_LIMIT", 2**20)
    parsed = Parsed(run_page(path))
    sources = [video["src"] or "" for video in parsed.named("video")]
    assert [base64.b64decode(source.split(",")[1]) for source in sources] == [b"first", b"small film"]
    assert all(source.startswith("data:video/mp4;base64,") for source in sources)
    assert "large.mp4 is left out: its 3.0 MiB are more than a page should hold" in parsed.text
    monkeypatch.setattr(page_run, "VIDEOS_LIMIT", 8)
    assert "after.mp4 is left out" in Parsed(run_page(path)).text


def test_page_allows_itself_nothing_but_its_own_script(tmp_path: Path):
    text = run_page(make_run(tmp_path / "run"))
    parsed = Parsed(text)
    (policy,) = [meta["content"] or "" for meta in parsed.named("meta") if "http-equiv" in meta]
    for kind, content in (("script", parsed.scripts), ("style", parsed.styles)):
        digest = base64.b64encode(hashlib.sha256("".join(content).encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy
    for name, attributes in parsed.tags:
        assert name not in ("link", "iframe", "object", "embed", "form", "base", "img")
        assert "style" not in attributes and not any(key.startswith("on") for key in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")


def test_nothing_of_a_run_becomes_html(tmp_path: Path):
    config = {**CONFIG, "task": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    rows = [*metrics(), {"env_steps": 5, HOSTILE: 1.0}]
    summary = {**SUMMARY, "task": HOSTILE, "algorithm": HOSTILE, HOSTILE: HOSTILE}
    versions = [{"started": HOSTILE, HOSTILE: HOSTILE}]
    name = HOSTILE.replace("/", "|")
    path = make_run(tmp_path / name, config=config, rows=rows, summary=summary, versions=versions)
    (path / "videos").mkdir()
    (path / "videos" / f"{name}.mp4").touch()
    (path / "faults").mkdir()
    (path / "faults" / name).touch()
    one = {"policy": HOSTILE, "kind": HOSTILE, "success_rate": 0.5, "episodes": 10, "sampler": HOSTILE}
    (path / "evaluation.json").write_text(json.dumps([one]))
    plain = Parsed(run_page(make_run(tmp_path / "plain")))
    hostile = Parsed(run_page(path))
    assert len(hostile.scripts) == len(plain.scripts) == 1
    assert hostile.scripts == plain.scripts
    assert not hostile.named("img")
    assert hostile.text.count("<script>window.hacked=1</script>") > 10


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("versions.json", "{}"),
        ("versions.json", "[1]"),
        ("evaluation.json", "{}"),
        ("config.json", "{}"),
        ("metrics.jsonl", "nonsense\n"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path: Path, file: str, content: str):
    path = make_run(tmp_path / "run")
    (path / file).write_text(content)
    with pytest.raises(OtprError, match=re.escape(file)):
        Report(path).run()
    assert not (path / "report.html").exists()


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**400)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def objects(*names: str) -> st.SearchStrategy[dict]:
    return st.dictionaries(st.sampled_from(names), NUMBERS | ANYTHING)


@hypothesis.given(
    rows=st.lists(
        objects(*metrics()[0], *metrics()[3], "pretrain/loss", "ot/marginal_error", "x"), max_size=4
    ),
    config=objects(*CONFIG, "x"),
    versions=st.lists(objects("started", "x"), max_size=2),
    summary=st.none() | objects(*SUMMARY),
    evaluations=st.lists(objects("policy", "success_rate", "episodes"), max_size=2),
)
def test_files_that_hold_anything_make_a_page(tmp_path_factory, rows, config, versions, summary, evaluations):
    path = tmp_path_factory.mktemp("any") / "run"
    make_run(path, rows=rows, config=config, versions=versions, summary=summary)
    (path / "evaluation.json").write_text(json.dumps(evaluations))
    text = run_page(path)
    assert len(Parsed(text).scripts) == 1
    assert not re.search("nan|inf", " ".join(re.findall(r' (?:points|d|x|y|transform)="([^"]*)"', text)))


# ------------------------------------------------------------------------------------------- many runs


def bench(tmp_path: Path, rows=None) -> Path:
    """A results file, of two runs of two methods unless told otherwise."""
    path = tmp_path / "arena-6.parquet"
    few = [one for method in ("otpr", "fql") for seed in (0, 1) for one in run(method, [0.3, 0.5], seed=seed)]
    add_rows(path, few if rows is None else rows)
    return path


def test_page_of_results_holds_their_numbers(tmp_path: Path):
    parsed = Parsed(bench_page(bench(tmp_path, arena()), None, tmp_path / "out.html"))
    assert "arena-6: 11 methods on 6 tasks" in parsed.text
    assert "Where otpr loses" in parsed.text
    error = "FloatingPointError: the loss of Q is nan <b>at</b> step 17,250 | seed"
    assert ["dppo", "ogbench/cube-double-task2", "0", error] in parsed.cells
    wanted = ("fql", "metaworld/assembly-v3", 50_000)
    rows = [one for one in arena() if (one.algorithm, one.task, one.eval_at) == wanted]
    mean = sum(one.success or 0 for one in rows) / 3
    seeds = ", ".join(f"{one.success:.0%}" for one in sorted(rows, key=lambda one: one.seed))
    assert f"50,000 steps: {mean:.1%}, 3 seeds ({seeds})" in tips(parsed, "fql")


def test_older_rows_are_left_out_and_counted(tmp_path: Path):
    rows = [
        *run("otpr", [0.3, 0.1], code_version="aaaaaaaaaaaa", started="2026-11-20T10:00:00+00:00"),
        *run("otpr", [0.3, 0.5]),
    ]
    parsed = Parsed(bench_page(bench(tmp_path, rows), None, tmp_path / "out.html"))
    assert "2 rows of older versions, settings or base policies are left out" in parsed.text
    assert "50,000 steps: 10.0%" not in " ".join(tips(parsed, "otpr"))


def test_results_with_a_method_that_lacks_a_task(tmp_path: Path):
    other = {"task": "robosuite/can"}
    rows = [*run("otpr", [0.3, 0.5]), *run("otpr", [0.3, 0.5], **other), *run("fql", [0.3, 0.5])]
    parsed = Parsed(bench_page(bench(tmp_path, rows), None, tmp_path / "out.html"))
    assert "Without fql: no finished run on some task." in parsed.text


def test_results_of_failed_runs_alone_have_a_page(tmp_path: Path):
    parsed = Parsed(bench_page(bench(tmp_path, [failed("otpr", HOSTILE)]), None, tmp_path / "out.html"))
    assert "no finished run" in parsed.text
    assert len(parsed.scripts) == 1
    assert "<script>window.hacked=1</script>" in parsed.text


def test_films_of_runs_are_linked(tmp_path: Path):
    path = bench(tmp_path / "bench")
    film = tmp_path / "bench" / "runs" / "task" / "otpr" / "seed0-abc" / "videos" / "after #1.mp4"
    film.parent.mkdir(parents=True)
    film.touch()
    (tmp_path / "pages").mkdir()
    parsed = Parsed(bench_page(path, tmp_path / "bench", tmp_path / "pages" / "out.html"))
    (link,) = parsed.named("a")
    assert link["href"] == "../bench/runs/task/otpr/seed0-abc/videos/after%20%231.mp4"


def test_results_of_a_bench_directory_are_found(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "arena-6"
    directory.mkdir(parents=True)
    with pytest.raises(OtprError, match="no Parquet files"):
        find_results(directory)
    beside = bench(tmp_path / "results" / "bench")
    assert find_results(directory) == (beside.relative_to(tmp_path), directory)
    inside = bench(directory)
    assert find_results(directory) == (inside, directory)
    assert find_results(inside) == (inside, None)
    (directory / "other.parquet").write_bytes(inside.read_bytes())
    with pytest.raises(OtprError, match="2 Parquet files"):
        find_results(directory)


# ------------------------------------------------------------------------------------------- the command


def test_report_goes_beside_what_it_is_of(tmp_path: Path, capsys):
    path, results = make_run(tmp_path / "run"), bench(tmp_path)
    Report(path).run()
    Report(results).run()
    Report(results, out=tmp_path / "new" / "page.html").run()
    said = capsys.readouterr().out
    for file in (path / "report.html", tmp_path / "arena-6.html", tmp_path / "new" / "page.html"):
        assert str(file) in said
        assert file.read_text().startswith("<!doctype html>")
    # a report may take the place of a report
    Report(path).run()
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["page.html"]


def test_report_overwrites_nothing_else(tmp_path: Path):
    path = make_run(tmp_path / "run")
    precious = tmp_path / "precious.html"
    precious.write_text("<!doctype html>mine")
    for out, match in ((precious, "is no report of otpr"), (tmp_path, "is a folder")):
        with pytest.raises(OtprError, match=match):
            Report(path, out=out).run()
    with pytest.raises(OtprError, match=r"arena-6\.parquet exists and is no report"):
        Report(bench(tmp_path), out=tmp_path / "arena-6.parquet").run()
    assert precious.read_text() == "<!doctype html>mine"
    with pytest.raises(OtprError, match=r"run.summary\.json cannot be made"):
        Report(path, out=path / "summary.json" / "page.html").run()
    check_out(tmp_path / "free.html")


def test_report_of_nothing_says_what_it_takes(tmp_path: Path):
    with pytest.raises(OtprError, match=r"There is no .*missing\. Name a run directory"):
        Report(tmp_path / "missing").run()
    with pytest.raises(OtprError, match="is no run directory"):
        Report(tmp_path).run()
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(OtprError, match="cannot be read as Parquet"):
        Report(text).run()
