"""The report in a real browser: it draws every plot, asks for nothing outside itself, fits a laptop and a sheet."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import LAPTOP, Browser, chromium, find_chromium
from matplotlib.image import imread
from report_page import SECTIONS
from report_sweep import write_report_sweep
from sweep_folder import WrittenTrial, write_sweep

from tune_app.report import ReportSettings, report
from tune_app.reporting.compare import CompareSettings, compare_and_print

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not find_chromium(), reason="needs Chromium (Debian: apt install chromium)"),
]
MARKS = ".points path, .lines path, .bars path, .boxes path, .js-line, .point path, .point"
A4 = (595, 842)
"""Points."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_report_sweep(tmp_path_factory.mktemp("browser") / "sweep")
    arms = [{"name": f"arm{i}", "mean": 0.5 + i / 50, "low": 0.4, "high": 0.7, "in_set": i > 0} for i in range(3)]
    found = {"statement": "No winner: arm1 and arm2 cannot be told apart.", "arms": arms}
    (folder / "confirmation.json").write_text(json.dumps(found))
    return report(ReportSettings(sweep=str(folder)))


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with chromium() as found:
        found.open(page)
        yield found


def test_the_console_is_silent_and_no_network_is_asked(browser: Browser) -> None:
    assert browser.messages == []
    assert browser.outside() == []
    assert any(url.startswith("file:") for url in browser.requests), "requests are seen at all"


def test_every_section_is_shown(browser: Browser) -> None:
    shown = browser.evaluate(
        "[...document.querySelectorAll('main > section')].filter(s => s.offsetHeight > 60).map(s => s.id)"
    )
    assert tuple(shown) == SECTIONS
    assert browser.evaluate("document.querySelectorAll('section .nothing').length") == 0


def test_every_plot_is_drawn(browser: Browser) -> None:
    counted = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.plot')].map(p => "
        f"[p.id, [p.querySelectorAll('{MARKS}').length, p.querySelector('.main-svg').clientWidth]]))"
    )
    assert len(counted) == int(browser.evaluate("document.documentElement.dataset.drawn")) >= 12
    for name, (marks, width) in counted.items():
        assert marks > 0, name
        assert 600 < width <= LAPTOP[0], name


def test_every_picture_has_ink(browser: Browser) -> None:
    """Not only elements: pixels that are not white, in every plot and image."""
    shot = imread(io.BytesIO(browser.screenshot()), format="png")[..., :3]
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.plot, .gallery img')].map(e => { const b = e.getBoundingClientRect();"
        " return [e.id || e.alt, b.left + scrollX, b.top + scrollY, b.width, b.height]; })"
    )
    assert len(boxes) > 20
    for name, left, top, width, height in boxes:
        part = shot[int(top) : int(top + height), int(left) : int(left + width)]
        assert (part.min(axis=-1) < 0.8).mean() > 0.004, name


def test_every_image_is_loaded_and_has_words(browser: Browser) -> None:
    images = browser.evaluate("[...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0])")
    assert images
    assert all(alt and loaded for alt, loaded in images)


@pytest.mark.parametrize("width", [800, 1024, 1280])
def test_nothing_sticks_out(browser: Browser, width: int) -> None:
    browser.resize((width, LAPTOP[1]))
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    widest = browser.evaluate("Math.max(...[...document.querySelectorAll('.plot .main-svg')].map(s => s.clientWidth))")
    assert 600 < widest <= width


def test_on_a_phone_no_table_is_cut(browser: Browser) -> None:
    """Cells stand below each other, each beside the name of its column; images are large enough to see something."""
    browser.resize((390, 844))
    try:
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= 390
        cut = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert browser.evaluate(cut) == 0
        inside = "[...document.querySelectorAll('td')].every(e => e.getBoundingClientRect().right <= 390)"
        assert browser.evaluate(inside)
        named = "getComputedStyle(document.querySelector('#leaderboard-table td + td'), '::before').content"
        assert browser.evaluate(named) == '"name"'
        assert browser.evaluate("Math.min(...[...document.querySelectorAll('.gallery img')].map(i => i.width))") > 90
    finally:
        browser.resize(LAPTOP)


def test_tables_can_be_reached_by_keyboard(browser: Browser) -> None:
    assert browser.evaluate("[...document.querySelectorAll('.wide')].every(e => e.tabIndex === 0)")
    links = browser.evaluate("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert links == [f"#{name}" for name in SECTIONS]


def test_it_prints_on_upright_sheets_and_is_whole_again(browser: Browser) -> None:
    widths = "[...document.querySelectorAll('.plot .main-svg')].map(s => s.clientWidth)"
    before = browser.evaluate(widths)
    pdf = browser.pdf()
    boxes = {tuple(round(float(v)) for v in m.split()[2:]) for m in media_boxes(pdf)}
    assert boxes == {A4}
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30
    assert browser.evaluate(widths) == before


def media_boxes(pdf: bytes) -> list[str]:
    """The sheets of a PDF, as its page objects (or the compressed streams that hold them) give them."""
    texts = [pdf]
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            texts.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    return [m.decode() for text in texts for m in re.findall(rb"/MediaBox\s*\[([^]]*)\]", text)]


def test_the_data_behind_a_link_is_the_csv(browser: Browser) -> None:
    text = browser.evaluate("fetchable = atob(document.querySelector('#curves .csv').href.split('base64,')[1])")
    header = text.splitlines()[0].split(",")
    assert header[:5] == ["name", "family", "status", "seed", "epoch"]


def test_the_screen_is_not_one_colour(browser: Browser) -> None:
    shot = imread(io.BytesIO(browser.screenshot(whole=False)), format="png")
    assert shot.shape[:2] == (LAPTOP[1], LAPTOP[0])
    assert len(np.unique(shot.reshape(-1, shot.shape[-1]), axis=0)) > 50


def test_the_page_of_a_comparison(browser: Browser, tmp_path: Path) -> None:
    """Last, since it leaves the report: silent, alone, whole on a laptop and on a phone, no word broken."""
    arms = [
        WrittenTrial(label=name, dice=[(0.5, 0.4)], signature=name, seed=seed)
        for name in ("weight_uniform", "seesaw_strong_compensate")
        for seed in (0, 1)
    ]
    for name in "ab":
        write_sweep(tmp_path / name, arms)
    out = tmp_path / "comparison.html"
    compare_and_print(CompareSettings(a=str(tmp_path / "a"), b=str(tmp_path / "b"), out=str(out)))
    browser.open(out)
    assert browser.messages == []
    assert browser.outside() == []
    lines = "[...document.querySelectorAll('#leaderboard td:last-child')].map(e => e.getClientRects()[0].height)"
    heights = browser.evaluate(lines)
    assert len(heights) == 8
    assert max(heights) < 1.5 * min(heights), "status on one line"
    for width in (1366, 390):
        browser.resize((width, 844))
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
        cut = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert browser.evaluate(cut) == 0
