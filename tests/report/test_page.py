"""The report as text: it holds the numbers of the run, and nothing of a run's files becomes HTML."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import hypothesis
import pytest
from hypothesis import strategies as st
from matplotlib.figure import Figure

from bench_rows import arena, failed, run
from otpr.errors import OtprError
from otpr.training.run_directory import RunDirectory
from otpr_bench.plots import BLUE, FEW, Level, Plot, Series, chart, styles, svg
from otpr_bench.report import page_run
from otpr_bench.report.command import Report
from otpr_bench.report.page import check_out
from otpr_bench.report.page_bench import bench_page, find_results
from otpr_bench.report.page_run import run_page
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


def shown(parsed: Parsed, x: str, *, under: str) -> list[str]:
    """The cells at that place of every table of numbers that has a column of that name."""
    found: list[str] = []
    column = None
    for cells in parsed.cells:
        if cells[0] in ("environment steps", "gradient steps"):
            column = cells.index(under) if under in cells else None
        elif cells[0] == x and column is not None and column < len(cells):
            found.append(cells[column])
    return found


# ------------------------------------------------------------------------------------------- charts


def line(values: list[float], **changes) -> Series:
    return Series("one", [float(place) for place in range(len(values))], values, BLUE, **changes)


def parsed_svg(picture: str) -> ElementTree.Element:
    """The elements of a picture without their namespaces, as in a page."""
    return ElementTree.fromstring(re.sub(r' xmlns(:xlink)?="[^"]*"| xlink:(?=href)', " ", picture))


def drawn(*values: float, share: bool = False, levels: tuple[Level, ...] = ()) -> ElementTree.Element:
    return parsed_svg(chart(Plot("t", "x", [line(list(values))], "", share, levels), "id").picture)


def points(picture: ElementTree.Element) -> list[tuple[float, float]]:
    """Where the markers of the blue line are, without the one in the key, which is below all."""
    marks = [use for use in picture.iter("use") if f"fill: {BLUE.colour.lower()}" in use.get("style", "")]
    return [(float(mark.get("x", "")), float(mark.get("y", ""))) for mark in marks[:-1]]


def heights(picture: ElementTree.Element) -> dict[str, float]:
    """How far down each text of the vertical axis stands."""
    texts = [text for text in picture.iter("text") if "text-anchor: end" in text.get("style", "")]
    return {text.text or "": float(text.get("y", "")) for text in texts}


def test_points_of_a_chart_are_where_the_axes_say():
    picture = drawn(0.0, 0.5, 1.0, share=True)
    xs, ys = zip(*points(picture), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    ticks = heights(picture)
    assert ys[0] - ys[2] == pytest.approx(ticks["0%"] - ticks["100%"], abs=0.1)
    assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.1)


def test_axis_is_logarithmic_where_values_span_decades():
    picture = drawn(1e-4, 1e-2, 1.0)
    ys = [y for _, y in points(picture)]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert heights(picture).keys() >= {"0.0001", "0.01", "1"}


@pytest.mark.parametrize("values", [[0.0], [0.3, 0.3], [-3e-8, 0.0], [-5.0, 5.0], [1e9, 2e9], [0.0, 1e-9]])
def test_any_values_stay_inside_the_chart(values):
    picture = drawn(*values)
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for x, y in points(picture):
        assert 0 < x < width and 0 < y < height


def test_lines_to_compare_with_are_inside_the_axis():
    levels = heights(drawn(0.05, 0.06, levels=(Level(0.15, "bound"),)))
    assert min(levels.values()) - 5 < levels["bound"] < levels["0.06"]


def test_few_points_are_marked_and_many_are_not():
    assert len(points(drawn(*[0.5] * FEW))) == FEW
    assert points(drawn(*[0.5] * (FEW + 1))) == []


def test_the_numbers_of_a_chart_are_in_its_table():
    one, other = line([0.25, 0.5]), line([1 / 3])._replace(name="other")
    made = Plot("t", "x", [one, other], share=True).numbers()
    assert (made.header, made.rows) == (
        ("x", "one", "other"),
        (("0", "25.00%", "33.33%"), ("1", "50.00%", "")),
    )
    assert Plot("t", "x", [line([0.5], cells=["half"])]).numbers().rows == (("0", "half"),)
    assert Plot("t", "x", [Series("one", [1.25, 1_247_000], [1e-7, 20], BLUE)]).numbers().rows == (
        ("1.25", "1e-07"),
        ("1,247,000", "20"),
    )


def test_pictures_are_the_same_bytes_and_share_no_id():
    def picture(identity: str) -> str:
        return chart(Plot("t", "x", [line([0.0, 1.0], low=[0, 0], high=[1, 1])]), identity).picture

    def ids(picture: str) -> set[str]:
        return set(re.findall(r' id="([^"]*)"', picture))

    assert picture("a") == picture("a")
    assert ids(picture("a")) and not ids(picture("a")) & ids(picture("b"))
    # what is referred to is there
    assert set(re.findall(r"#([mp]\w{10})", picture("a"))) == ids(picture("a"))


def test_a_key_names_the_series_unless_the_title_does():
    def texts(name: str) -> list[str | None]:
        plot = Plot("t", "x", [line([0.0, 1.0])._replace(name=name)])
        return [text.text for text in parsed_svg(chart(plot, "id").picture).iter("text")]

    assert "one" in texts("one")
    assert "t" not in texts("t")


def test_a_picture_holds_text_as_text():
    figure = Figure()
    figure.subplots().set_xlabel("costs $1 <b> $2")
    root = parsed_svg(svg(figure, "id"))
    assert "costs $1 <b> $2" in [text.text for text in root.iter("text")]


def test_eleven_methods_look_different():
    looks = styles(["otpr", "otpr:paper", "bc", "idql", "dql", "dawr", "qsm", "dppo", "rlpd", "fql", "qc"])
    assert len({style.colour for style in looks.values()}) == 11
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
    assert "row error 0.100 and column error 0.070 (bound 0.15). The potentials can be trusted." in text
    assert ["1,000", "62% [47, 76]", "58% [42, 71]", "40", "183.1", "13.9"] in parsed.cells
    assert ["keypoint_strategy", "all"] in parsed.cells
    assert ["env_steps", "2000"] in parsed.cells
    assert ["devices", "cpu:0"] in parsed.cells
    assert "62.50%" in shown(parsed, "1,000", under="as deployed")
    assert shown(parsed, "250", under="critic/loss") == ["0.02"]
    assert shown(parsed, "1,500", under="mine/further") == ["7.25"]
    assert "Metrics of mine" in text and "Metrics of otpr" in text
    # what is no curve has none
    assert not {"otpr/round", "env_steps"} & {cell for cells in parsed.cells for cell in cells[1:]}


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
        {"env_steps": 2013, "updates": 9000, "critic/beyond_bound": 0.6},
        {"env_steps": 2013, "rollout/broken_episodes": 4},
    ]
    path = make_run(tmp_path / "run", rows=rows)
    (path / "faults").mkdir()
    (path / "faults" / "update-3017.safetensors").touch()
    text = Parsed(run_page(path)).text
    assert "beyond what rewards allow for 60% of pairs" in text
    assert "4 training episodes were lost" in text
    assert "update-3017.safetensors" in text


@pytest.mark.parametrize(
    ("relaxation", "rows", "columns", "verdict"),
    [
        # kept columns: each error counts for itself
        (
            0.0,
            0.1,
            0.14,
            "row error 0.100 and column error 0.140 (bound 0.15). The potentials can be trusted.",
        ),
        (0.0, 0.2, 0.01, "cannot be trusted: on average they weight states 20% too much or too little."),
        (0.0, 0.01, 0.2, "cannot be trusted: on average they weight actions 20% too much or too little."),
        (0.0, 0.2, 0.3, "weight states 20% and actions 30% too much"),
        # relaxed ones: the rows alone, although the mean of both errors is within the bound
        (1000.0, 0.2, 0.01, "cannot be trusted: on average they weight states 20% too much or too little."),
        (
            1000.0,
            0.1,
            0.3,
            "row error 0.100 (bound 0.15; the columns are relaxed). The potentials can be trusted.",
        ),
    ],
)
def test_rows_and_columns_of_the_potentials_are_judged_apart(
    tmp_path: Path, relaxation, rows, columns, verdict
):
    config = {**CONFIG, "agent": {"column_relaxation": relaxation}}
    errors = {
        "otpr/marginal_error": (rows + columns) / 2,
        "otpr/row_error": rows,
        "otpr/column_error": columns,
    }
    path = make_run(tmp_path / "run", config=config, rows=[*metrics(), {"env_steps": 2013, **errors}])
    assert verdict in Parsed(run_page(path)).text


def test_metrics_of_one_name_share_a_chart(tmp_path: Path):
    row = {"env_steps": 900, **{f"mine/error/{name}": place for place, name in enumerate("abcdefghijkl")}}
    parsed = Parsed(run_page(make_run(tmp_path / "run", rows=[row])))
    assert ["environment steps", *"abcdefghijkl"] in parsed.cells
    assert ["900", *map(str, range(12))] in parsed.cells


def test_run_without_evaluations_or_rows_has_a_page(tmp_path: Path):
    rows = [{"updates": 250 * number, "pretrain/loss": 0.5 / number} for number in (1, 2)]
    imitation = make_run(tmp_path / "pretrain", command="pretrain", config={}, rows=rows, summary=None)
    parsed = Parsed(run_page(imitation))
    assert "the loss went from 0.5 to 0.25 in 500 gradient steps" in parsed.text
    assert shown(parsed, "250", under="pretrain/loss") == ["0.5"]
    assert shown(parsed, "500", under="pretrain/loss") == ["0.25"]
    assert "has not ended" not in parsed.text
    assert "has not ended" in Parsed(run_page(make_run(tmp_path / "empty", rows=[], summary=None))).text


def test_imitation_in_a_folder_of_the_run_is_shown(tmp_path: Path):
    path = make_run(tmp_path / "run", command="quickstart")
    rows = [{"updates": 250, "pretrain/loss": 0.5}]
    make_run(path / "pretrain", command="pretrain", rows=rows, summary=None)
    assert shown(Parsed(run_page(path)), "250", under="pretrain/loss") == ["0.5"]


def test_numbers_that_were_not_finite_are_left_out(tmp_path: Path):
    rows = [*metrics(), {"env_steps": 1900, "critic/loss": None}, evaluation(1950, 0.5, None)]
    rows[-1]["eval/success_rate"] = None
    parsed = Parsed(run_page(make_run(tmp_path / "run", rows=rows)))
    assert "62.50%" in shown(parsed, "1,000", under="as deployed")
    assert shown(parsed, "1,950", under="as deployed") == []


def test_long_runs_are_thinned_to_means_and_their_page_stays_small(tmp_path: Path):
    path = make_run(tmp_path / "run", rows=metrics(updates=5000))
    text = run_page(path)
    assert len(text) < 2**20
    parsed = Parsed(text)
    assert "each point the mean of 25 rows" in parsed.text
    # rows 1 to 25, at 250 to 6,250 gradient steps, and the last 25
    assert shown(parsed, "3,250", under="policy/loss") == ["0.28997"]
    assert shown(parsed, "1,247,000", under="policy/loss") == ["0.28002"]
    assert len([cells for cells in parsed.cells if cells[0] == "3,250"]) == 4


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


def test_page_allows_itself_nothing_but_styles(tmp_path: Path):
    text = run_page(make_run(tmp_path / "run"))
    parsed = Parsed(text)
    (policy,) = [meta["content"] or "" for meta in parsed.named("meta") if "http-equiv" in meta]
    assert not parsed.scripts and "script-src" not in policy
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "http" not in policy and "url(" not in "".join(parsed.styles)
    for name, attributes in parsed.tags:
        assert name not in ("link", "iframe", "object", "embed", "form", "base", "img")
        assert not any(key.startswith("on") for key in attributes)
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
    assert hostile.scripts == []
    assert set(hostile.styles) == set(plain.styles)
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


@pytest.mark.long
@hypothesis.given(
    rows=st.lists(
        objects(*metrics()[0], *metrics()[3], "pretrain/loss", "otpr/row_error", "x/y/z", "x"), max_size=4
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
    assert Parsed(text).scripts == []
    assert not re.search("nan|inf", " ".join(re.findall(r' (?:d|x|y|transform)="([^"]*)"', text)))


# ------------------------------------------------------------------------------------------- many runs


def bench(tmp_path: Path, rows=None) -> Path:
    """A results file, of two runs of two methods unless told otherwise."""
    path = tmp_path / "arena-6.parquet"
    few = [one for method in ("otpr", "fql") for seed in (0, 1) for one in run(method, [0.3, 0.5], seed=seed)]
    add_rows(path, few if rows is None else rows)
    return path


@pytest.mark.long
def test_page_of_results_holds_their_numbers(tmp_path: Path):
    parsed = Parsed(bench_page(bench(tmp_path, arena())))
    assert "arena-6: 11 methods on 6 tasks" in parsed.text
    assert "Where otpr loses" in parsed.text
    error = "FloatingPointError: the loss of Q is nan <b>at</b> step 17,250 | seed"
    assert ["dppo", "ogbench/cube-double-task2", "0", error] in parsed.cells
    wanted = ("fql", "metaworld/assembly-v3", 50_000)
    rows = [one for one in arena() if (one.algorithm, one.task, one.eval_at) == wanted]
    mean = sum(one.success or 0 for one in rows) / 3
    seeds = ", ".join(f"{one.success:.0%}" for one in sorted(rows, key=lambda one: one.seed))
    assert f"{mean:.1%} ({seeds})" in shown(parsed, "50,000", under="fql")


def test_older_rows_are_left_out_and_counted(tmp_path: Path):
    rows = [
        *run("otpr", [0.3, 0.1], result_version="1.0", started="2026-11-20T10:00:00+00:00"),
        *run("otpr", [0.3, 0.5]),
    ]
    parsed = Parsed(bench_page(bench(tmp_path, rows)))
    assert "2 rows of older versions, settings or base policies are left out" in parsed.text
    assert shown(parsed, "50,000", under="otpr") == ["50.0%"]


def test_results_with_a_method_that_lacks_a_task(tmp_path: Path):
    other = {"task": "robosuite/can"}
    rows = [*run("otpr", [0.3, 0.5]), *run("otpr", [0.3, 0.5], **other), *run("fql", [0.3, 0.5])]
    parsed = Parsed(bench_page(bench(tmp_path, rows)))
    assert "Without fql: no finished run on some task." in parsed.text


def test_results_of_failed_runs_alone_have_a_page(tmp_path: Path):
    parsed = Parsed(bench_page(bench(tmp_path, [failed("otpr", HOSTILE)])))
    assert "no finished run" in parsed.text
    assert parsed.scripts == []
    assert "<script>window.hacked=1</script>" in parsed.text


def test_results_of_a_bench_directory_are_found(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "arena-6"
    directory.mkdir(parents=True)
    with pytest.raises(OtprError, match="no Parquet files"):
        find_results(directory)
    beside = bench(tmp_path / "results" / "bench")
    assert find_results(directory) == beside.relative_to(tmp_path)
    inside = bench(directory)
    assert find_results(directory) == find_results(inside) == inside
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
    with pytest.raises(OtprError, match=r"summary\.json is a file, not a folder"):
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
