"""What a person sees of a report: opened in a browser without a network, pointed at, and stepped through."""

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


def place(browser: Page, series: str, number: int) -> tuple[float, float]:
    """Where in the window a point is of the first series of that name, scrolled to."""
    script = f"""(() => {{
        const all = [...document.querySelectorAll(".chart .series")];
        const group = all.find((one) => one.dataset.name === {json.dumps(series)});
        group.scrollIntoView({{ block: "center" }});
        const at = group.querySelector("polyline").points[{number}];
        const there = new DOMPoint(at.x, at.y).matrixTransform(group.getScreenCTM());
        return [there.x, there.y];
    }})()"""
    x, y = browser.run(script)
    return x, y


def told(browser: Page) -> list[str]:
    """The texts of the tips that are shown."""
    return browser.run(
        "[...document.querySelectorAll('.tip')].filter((one) => one.checkVisibility())"
        ".map((one) => one.innerText)"
    )


def is_drawn(browser: Page, x: float, y: float, within: int = 3) -> bool:
    """Whether the blue of the first series is within so many pixels of a place in the window."""
    left, top, size = int(x) - within, int(y) - within, 2 * within + 1
    patch = pixels(browser)[top : top + size, left : left + size]
    return bool((np.abs(patch.astype(int) - (0x00, 0x72, 0xB2)) < 60).all(axis=-1).any())


def pixels(browser: Page) -> np.ndarray:
    with Image.open(io.BytesIO(browser.picture())) as image:
        return np.asarray(image.convert("RGB"))


def tables(browser: Page) -> list[list[str]]:
    return browser.run(
        "[...document.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )


def test_a_run_shows_its_points_and_tells_their_exact_numbers(browser: Page, run_report: Path):
    browser.open(run_report)
    told_at = ("0 steps: 37.0%", "1,000 steps: 62.5% of 40", "2,013 steps: 81.0% of 100")
    for number, words in enumerate(told_at):
        x, y = place(browser, "as deployed", number)
        assert is_drawn(browser, x, y)
        assert not is_drawn(browser, x, y + 60)
        if number == 2:  # where the line ends, the marker goes on
            assert is_drawn(browser, x + 3.5, y, within=0)
        browser.point_at(x + 2, y + 1)
        (tip,) = told(browser)
        assert tip.startswith(f"as deployed\n{words}")
    browser.point_at(2, 2)
    assert told(browser) == []


def test_a_line_of_many_points_is_seen_and_tells_them_too(browser: Page, run_report: Path):
    browser.open(run_report)
    x, y = place(browser, "policy loss", 49)
    browser.point_at(x, y)
    assert told(browser) == ["policy loss\n12,500: 0.285"]
    assert is_drawn(browser, x, y)


def test_the_keyboard_steps_through_the_points(browser: Page, run_report: Path):
    browser.open(run_report)
    browser.run("document.querySelector('.chart > svg').focus()")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        browser.press(key)
        seen += told(browser)
    assert [tip.split(":")[0] for tip in seen] == [
        "as deployed\n0 steps",
        "as deployed\n1,000 steps",
        "one sample\n1,000 steps",
        "one sample\n0 steps",
        "one sample\n0 steps",
    ]
    browser.press("Escape")
    assert told(browser) == []


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
    x, y = place(browser, "otpr", 2)
    browser.point_at(x, y)
    assert told(browser) == ["otpr\n50,000 steps: 71.0%, 3 seeds (70%, 71%, 72%)"]
    rows = tables(browser)
    assert ["qc", "metaworld/assembly-v3", "0", f"broke: {HOSTILE}"] in rows
    (fql,) = [row for row in rows if row[0] == "fql" and len(row) == 2]
    assert fql[1].startswith("90% [")
    assert "metaworld/assembly-v3: 71%, behind fql (90%) by 19" in browser.run("document.body.innerText")


def test_the_legend_hides_and_shows_a_method(browser: Page, bench_report: Path):
    browser.open(bench_report)

    def lines() -> list[str]:
        return browser.run(
            "[...document.querySelector('.chart > svg').querySelectorAll('.series')]"
            ".filter((one) => getComputedStyle(one).display !== 'none').map((one) => one.dataset.name)"
        )

    assert lines() == ["fql", "otpr"]
    x, y = place(browser, "fql", 2)
    box = browser.run(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        "([...document.querySelectorAll('.legend button')].find((one) => one.dataset.name === 'fql')"
        ".getBoundingClientRect())"
    )
    browser.click(*box)
    assert lines() == ["otpr"]
    browser.point_at(x, y)  # what is hidden says nothing
    assert not any(tip.startswith("fql") for tip in told(browser))
    browser.click(*box)
    assert lines() == ["fql", "otpr"]


@pytest.mark.parametrize("report", ["run_report", "bench_report"])
def test_nothing_is_fetched_and_nothing_goes_wrong(report: str, request: pytest.FixtureRequest):
    file: Path = request.getfixturevalue(report)
    with Page() as page:
        page.open(file)
        page.wait_for("[...document.querySelectorAll('video')].every((one) => one.readyState >= 1)")
        page.run("document.querySelector('.chart > svg').focus()")
        page.press("ArrowRight")
        assert told(page)
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
    x, y = place(browser, HOSTILE, 0)
    browser.point_at(x, y)
    assert told(browser) == [f"{HOSTILE}\n5: 1"]
    assert browser.complaints == []


def test_a_narrow_window_and_a_dark_one(run_report: Path, bench_report: Path):
    with Page(360, 740, dark=True) as page:
        for file in (run_report, bench_report):
            page.open(file)
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            ground = page.run("getComputedStyle(document.body).backgroundColor")
            assert ground == "rgb(20, 23, 27)"
            x, y = place(page, "otpr" if file == bench_report else "as deployed", 2)
            page.point_at(x, y)
            box = page.run(
                "(({left, right}) => [left, right])"
                "([...document.querySelectorAll('.tip')].find((one) => !one.hidden).getBoundingClientRect())"
            )
            assert 0 <= box[0] < box[1] <= 360


def test_a_single_evaluation_is_seen(browser: Page, tmp_path: Path):
    path = make_run(tmp_path / "run", rows=[evaluation(0, 0.4, None)], summary=None)
    Report(path).run()
    browser.open(path / "report.html")
    x, y = place(browser, "as deployed", 0)
    browser.point_at(x, y)
    assert told(browser)[0].startswith("as deployed\n0 steps: 40.0% of 100 episodes")
