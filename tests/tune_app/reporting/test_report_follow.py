"""report follow=true: the page is written when an epoch has ended, seldom enough, and once more at the end."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, find_chromium
from filelock import FileLock
from sweep_folder import WrittenTrial, history_row, write_sweep

from tune_app import report as report_module
from tune_app import run as run_module
from tune_app.report import ReportSettings, follow
from tune_app.results.folders import LOCK

TRIALS = [
    WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5), (0.8, 0.6)], params={"p": 0.8}),
    WrittenTrial(label="seesaw_p1.9", dice=[(0.4, 0.2)], params={"p": 1.9}, status="running"),
]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "wide", TRIALS, status="running")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Callable[[], Any]]], list[float]]:
    """Follows a sweep by a clock of the test's own: each look is one of `steps`, done before it; when pages were
    written, in seconds. Writing a page takes 0.3 s of the processor's time."""

    def run(sweep: Path, steps: list[Callable[[], Any]]) -> list[float]:
        now, cpu, written = [0.0], [0.0], []
        write, left = report_module.write, iter(steps)

        def noted(*given: Any, **more: Any) -> Path:
            written.append(now[0])
            cpu[0] += 0.3
            return write(*given, **more)

        def sleep(seconds: float) -> None:
            now[0] += seconds
            next(left)()

        fake = type("Clock", (), {"sleep": sleep, "monotonic": lambda: now[0], "process_time": lambda: cpu[0]})
        monkeypatch.setattr(report_module, "time", fake)
        monkeypatch.setattr(report_module, "write", noted)
        follow(ReportSettings(sweep=str(sweep)))
        return written

    return run


def test_it_is_written_when_something_has_changed_and_at_most_a_hundredth_of_a_core_is_spent(sweep, clock) -> None:
    lock = FileLock(sweep / LOCK)
    lock.acquire()
    history = sweep / "trials" / "0001_seesaw_p1.9" / "history.jsonl"
    number = itertools.count(2)

    def epoch() -> None:
        with history.open("a") as file:
            file.write(json.dumps(history_row(next(number), (0.5, 0.3))) + "\n")

    def look() -> None: ...

    def end() -> None:
        page = (sweep / "report.html").read_text()
        assert 'data-reload="30"' in page, "0.3 s at one hundredth of a core"
        assert "still running" in page
        lock.release()

    written = clock(sweep, [epoch, *[look] * 13, epoch, look, *[look] * 40, epoch, end])
    assert written == [0.0, 30.0, 114.0, 116.0], "two epochs in the second page; and the end at once"
    page = (sweep / "report.html").read_text()
    assert "data-reload" not in page.partition("<head>")[0]
    assert re.search(r"Epochs trained</dt><dd>6<", page)


def test_of_a_sweep_that_has_ended_it_is_written_once(sweep, clock) -> None:
    assert clock(sweep, []) == [0.0]


def test_a_sweep_that_is_watched_has_its_last_page(sweep, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "LAST_PAGE_S", 250.0)
    with run_module.watched(sweep) as watch:
        watch()
    assert "data-reload" not in (sweep / "report.html").read_text().partition("<head>")[0]


@pytest.mark.browser
@pytest.mark.skipif(not find_chromium(), reason="needs Chromium (Debian: apt install chromium)")
def test_the_page_comes_back_to_where_it_was(sweep) -> None:
    with FileLock(sweep / LOCK):
        report_module.write(report_module.Sweep(sweep), ReportSettings(), reload_s=1.0)
    with chromium() as browser:
        browser.open(sweep / "report.html")
        count = "performance.getEntriesByType('navigation')[0].type"
        assert browser.evaluate(count) == "navigate"
        where = "[scrollY, [...document.querySelectorAll('details[open]')].map(d => d.id)]"
        browser.until_loaded(
            lambda: browser.evaluate("document.querySelector('details').open = true, window.scrollTo(0, 700)")
        )
        assert browser.evaluate(count) == "reload"
        assert browser.evaluate(where) == [700, [browser.evaluate("document.querySelector('details').id")]]
        assert browser.outside() == []
        assert browser.messages == []
