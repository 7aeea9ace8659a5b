"""What a person sees of a report, opened in a browser without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench_rows import failed, run
from headless import PROGRAM, WHY_NOT, Page
from otpr_bench.report.command import Report
from otpr_bench.results import add_rows
from report_runs import CONFIG, SUMMARY, evaluation, film, make_run, metrics

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=WHY_NOT)

HOSTILE = """</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'"&"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page() as page:
        yield page


@pytest.fixture(scope="module")
def run_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_run(tmp_path_factory.mktemp("run") / "peg", rows=metrics(updates=100))
    film(path / "videos" / "after.mp4")
    Report(path).run()
    return path / "report.html"


@pytest.fixture(scope="module")
def bench_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("bench") / "arena-6.parquet"
    rows = []
    for seed in range(3):
        rows += run("otpr", [0.3, 0.52, 0.7 + seed / 100], seed=seed)
        rows += run("fql", [0.3, 0.41, 0.9], seed=seed)
    add_rows(results, [*rows, failed("qc", f"broke: {HOSTILE}")])
    Report(results).run()
    return results.with_suffix(".html")


def marks(browser: Page, title: str, colour: str = "#0072b2") -> list[tuple[float, float]]:
    """Where in the window the points of that colour are in the chart of that title, scrolled to."""
    script = f"""(() => {{
        const all = [...document.querySelectorAll(".chart")];
        const titled = (one) => one.querySelector("figcaption").innerText.startsWith({json.dumps(title)});
        const chart = all.find(titled);
        chart.scrollIntoView({{ block: "center" }});
        return [...chart.querySelectorAll(":scope svg use[style*='stroke: {colour}']")].map((one) => {{
            const at = new DOMPoint(one.x.baseVal.value, one.y.baseVal.value);
            const there = at.matrixTransform(one.getScreenCTM());
            return [there.x, there.y];
        }});
    }})()"""
    return [(x, y) for x, y in browser.run(script)][:-1]  # the last one is in the key


def is_drawn(browser: Page, x: float, y: float, colour: tuple[int, int, int] = (0x00, 0x72, 0xB2)) -> bool:
    """Whether a colour is within 3 pixels of a place in the window."""
    with Image.open(io.BytesIO(browser.picture())) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    patch = pixels[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4]
    return bool((np.abs(patch - colour) < 40).all(axis=-1).any())


def tables(browser: Page) -> list[list[str]]:
    return browser.run(
        "[...document.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )


def test_a_run_shows_its_points(browser: Page, run_report: Path):
    browser.open(run_report)
    places = marks(browser, "Success of held-out")
    assert len(places) == 3
    for x, y in places:
        assert is_drawn(browser, x, y)
        assert not is_drawn(browser, x, y + 60)
    heights = [y for _, y in places]
    # 37%, 62.5% and 81%
    assert (heights[0] - heights[1]) / (heights[0] - heights[2]) == pytest.approx(25.5 / 44, abs=0.02)


def test_the_numbers_of_a_chart_open_at_a_click(browser: Page, run_report: Path):
    browser.open(run_report)
    browser.run("document.querySelector('.chart summary').scrollIntoView()")
    cells = "[...document.querySelectorAll('.chart td')].filter((one) => one.checkVisibility()).length"
    assert browser.run(cells) == 0
    box = browser.run(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        "(document.querySelector('.chart summary').getBoundingClientRect())"
    )
    browser.click(*box)
    assert browser.run(cells) == 6


def test_the_tables_hold_the_numbers_of_the_run(browser: Page, run_report: Path):
    browser.open(run_report)
    rows = tables(browser)
    assert ["2,013", "81% [72, 87]", "74% [65, 82]", "100", "183.1", "13.9"] in rows
    assert ["gamma", "0.99"] in rows
    text = browser.run("document.body.innerText")
    assert "Success went from 37% to 81%" in text


def test_a_film_plays_from_within_the_page(browser: Page, run_report: Path):
    browser.open(run_report)
    browser.wait_for("document.querySelector('video').readyState >= 1")
    video: dict[str, Any] = browser.run(
        "(({src, duration, videoWidth}) => ({src: src.slice(0, 15), duration, videoWidth}))"
        "(document.querySelector('video'))"
    )
    assert video == {"src": "data:video/mp4;", "duration": pytest.approx(1, abs=0.2), "videoWidth": 64}


def test_many_runs_show_curves_tables_and_failures(browser: Page, bench_report: Path):
    browser.open(bench_report)
    places = marks(browser, "metaworld/assembly-v3")
    assert len(places) == 3 and is_drawn(browser, *places[2])
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    rows = tables(browser)
    assert ["50,000", "71.0% (70%, 71%, 72%)", "90.0% (90%, 90%, 90%)"] in rows
    assert ["qc", "metaworld/assembly-v3", "0", f"broke: {HOSTILE}"] in rows
    (fql,) = [row for row in rows if row[0] == "fql" and len(row) == 2]
    assert fql[1].startswith("90% [")
    assert "metaworld/assembly-v3: 71%, behind fql (90%) by 19" in browser.run("document.body.innerText")


@pytest.mark.parametrize("report", ["run_report", "bench_report"])
def test_nothing_is_fetched_and_nothing_goes_wrong(report: str, request: pytest.FixtureRequest):
    file: Path = request.getfixturevalue(report)
    with Page() as page:
        page.open(file)
        page.wait_for("[...document.querySelectorAll('video')].every((one) => one.readyState >= 1)")
        page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.complaints == []
        # what is in the page itself, as are the buttons that the browser puts on a film
        assert [address for address in page.requests if not address.startswith("data:")] == [file.as_uri()]


def test_the_page_could_not_call_home(browser: Page, run_report: Path):
    browser.open(run_report)
    browser.complaints.clear()
    failed = browser.run("fetch('http://127.0.0.1:9/').then(() => 'fetched', (error) => error.message)")
    assert failed == "Failed to fetch"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
    browser.complaints.clear()


def test_nothing_of_a_run_becomes_a_script(browser: Page, tmp_path: Path):
    rows = [*metrics(), {"env_steps": 5, HOSTILE: 1.0}]
    config = {**CONFIG, HOSTILE: {HOSTILE: HOSTILE}}
    path = make_run(tmp_path / "run", config=config, rows=rows, summary={**SUMMARY, "algorithm": HOSTILE})
    Report(path).run()
    browser.complaints.clear()
    browser.open(path / "report.html")
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.images.length") == 0
    assert HOSTILE in browser.run("document.querySelector('h1').innerText")
    assert len(marks(browser, "</script><script>window.hacked=1<")) == 1  # the prefix and its next part
    assert browser.complaints == []


def test_a_narrow_window_and_a_dark_one(run_report: Path, bench_report: Path):
    with Page(360, 740, dark=True) as page:
        for file in (run_report, bench_report):
            page.open(file)
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            ground = page.run("getComputedStyle(document.body).backgroundColor")
            assert ground == "rgb(20, 23, 27)"
            place = marks(page, "metaworld/assembly-v3" if file == bench_report else "Success of")[-1]
            assert 0 < place[0] < 360
            assert is_drawn(page, *place, colour=(0x4D, 0xA8, 0xE8))


def test_a_single_evaluation_is_seen(browser: Page, tmp_path: Path):
    path = make_run(tmp_path / "run", rows=[evaluation(0, 0.4, None)], summary=None)
    Report(path).run()
    browser.open(path / "report.html")
    ((x, y),) = marks(browser, "Success of")
    assert is_drawn(browser, x, y)
