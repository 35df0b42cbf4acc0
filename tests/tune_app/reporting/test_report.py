"""The report as one file: every section on every kind of sweep, self-contained, words and data for each picture."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from report_page import SECTIONS, ReportPage, read_report
from report_sweep import write_report_sweep
from sweep_folder import WrittenTrial, write_sweep

from tune_app.errors import InputError
from tune_app.report import ReportSettings, main, report, report_and_print
from tune_app.reporting.curves import curves
from tune_app.reporting.families import families
from tune_app.reporting.findings import gather
from tune_app.reporting.leaderboard import classes
from tune_app.reporting.page import GENERATOR
from tune_app.reporting.plots import BASELINE, BEST
from tune_app.reporting.predictions import ERRORS
from tune_app.results.sweep import Sweep

NAN = math.nan
MOST_BYTES = 15_000_000


def reported(folder: Path, **settings: str) -> ReportPage:
    return read_report(report(ReportSettings(sweep=str(folder), **settings)))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> ReportPage:
    """The report of a finished sweep of twenty trials."""
    return reported(write_report_sweep(tmp_path_factory.mktemp("report") / "full"))


def test_every_section_is_there_in_order_and_shows_something(full: ReportPage) -> None:
    assert tuple(full.sections) == SECTIONS
    assert {key for key, section in full.sections.items() if section.nothing} == {"confirmation"}
    for key, section in full.sections.items():
        assert section.title
        assert section.plots or section.images or section.tables or section.nothing, key


def test_every_picture_has_words_and_data(full: ReportPage) -> None:
    for key, section in full.sections.items():
        assert len(section.alts) == len(section.plots), key
        assert all(len(alt) > 40 for alt in section.alts), key
        assert all(image["alt"] for image in section.images), key
        for name in section.plots:
            assert section.data[f"{name}.csv"], name
        pictures = [name for name in section.data if name.removesuffix(".csv") in section.plots]
        galleries = bool(section.images) * (section.figures - len(section.plots))
        assert section.figures == len(pictures) + galleries, key


def test_plots_have_marks_and_their_numbers_are_finite(full: ReportPage) -> None:
    plots = {name: drawn for section in full.sections.values() for name, drawn in section.plots.items()}
    assert len(plots) >= 10
    for name, drawn in plots.items():
        assert any(len(trace.get("x") or trace.get("y") or ()) for trace in drawn["data"]), name


def test_nothing_is_asked_of_a_network(full: ReportPage) -> None:
    outside = [address for address in full.addresses if not address.startswith(("#", "data:"))]
    assert outside == []
    policy = next(meta["content"] for meta in full.metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


EMPTY = {
    "no trial": [],
    "only waiting": [WrittenTrial(label="seesaw_p0.7", status="waiting")],
    "only failed": [
        WrittenTrial(label="a", status="failed: nan", dice=[(NAN, NAN)], params={"p": 1.0}),
        WrittenTrial(label="b", status="failed: error", params={"p": 0.5}),
    ],
    "one running": [WrittenTrial(label="c", status="running", dice=[(0.2, 0.3)], params={"p": 1.0})],
    "one finished": [WrittenTrial(label="d", dice=[(0.2, 0.3), (0.4, 0.5)], params={"p": 1.0})],
    "a class without a Dice": [WrittenTrial(label=x, dice=[(0.2, NAN)], in_study=False) for x in "ef"],
    "no folders": [WrittenTrial(label="g", dice=[(0.2, 0.3)], folder=False, params={"p": 1.0})],
    "no study": [WrittenTrial(label="h", dice=[(0.2, 0.3)], in_study=False, params={"p": 1.0})],
}


@pytest.mark.parametrize("status", ["finished", "running", None])
@pytest.mark.parametrize("trials", EMPTY.values(), ids=EMPTY)
def test_a_section_with_nothing_to_show_says_why(tmp_path: Path, trials: list[WrittenTrial], status: str) -> None:
    page = reported(write_sweep(tmp_path / "a", trials, status=status))
    assert tuple(page.sections) == SECTIONS
    for key, section in page.sections.items():
        shows = section.plots or section.images or section.tables
        assert bool(section.nothing) != bool(shows), key
        assert not section.nothing or section.nothing.startswith("Nothing to "), key
        assert not section.nothing or len(section.nothing) > 30, key


@pytest.mark.parametrize("name", ["manifest.json", "sweep.yaml", "study.journal", "plan.json", "confirmation.json"])
@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"\xff\xfe\x00", None], ids=repr)
def test_damaged_files_do_not_stop_it(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = write_report_sweep(tmp_path / "a", trials=6, epochs=4)
    (folder / name).unlink(missing_ok=True) if content is None else (folder / name).write_bytes(content)
    assert tuple(reported(folder).sections) == SECTIONS


@pytest.mark.parametrize("name", ["history.jsonl", "validation.npz", "prediction.npz", "config.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b'{"epoch": 1}\n'], ids=repr)
def test_damaged_trials_do_not_stop_it(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_report_sweep(tmp_path / "a", trials=6, epochs=4)
    for trial in (folder / "trials").iterdir():
        (trial / name).write_bytes(content)
    assert tuple(reported(folder).sections) == SECTIONS


def test_odd_plans_and_confirmations_are_left_out(tmp_path: Path) -> None:
    folder = write_report_sweep(tmp_path / "a", trials=6, epochs=4)
    for odd in ({"arms": "none"}, {"arms": [1, {"name": "x"}]}, {"epochs": [1]}, {"trials": "many", "epochs": None}):
        (folder / "confirmation.json").write_text(json.dumps(odd))
        (folder / "plan.json").write_text(json.dumps(odd))
        assert tuple(reported(folder).sections) == SECTIONS


def test_a_running_sweep_says_so(tmp_path: Path) -> None:
    folder = write_report_sweep(tmp_path / "a", trials=4, epochs=3)
    with FileLock(folder / "sweep.lock"):
        assert "still running" in reported(folder).header


@pytest.mark.parametrize(
    ("status", "word"), [("running", "resume="), ("interrupted", "interrupted"), (None, "resume=")]
)
def test_an_unfinished_sweep_says_how_to_go_on(tmp_path: Path, status: str | None, word: str) -> None:
    trials = [WrittenTrial(label="c", status="running", dice=[(0.2, 0.3)])]
    assert word in reported(write_sweep(tmp_path / "a", trials, status=status)).header


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>\"'&"
    trials = [WrittenTrial(label=f"a{i}", dice=[(0.2, 0.3)], family=evil, params={evil: 0.1 * i}) for i in range(9)]
    classes = ["<b>nuc", "pm&"]
    folder = write_sweep(tmp_path / "a", trials, classes=classes)
    page = reported(folder)
    assert tuple(page.sections) == SECTIONS
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []
    assert page.sections["families"].data["families-table.csv"][0]["family"] == evil


def test_two_hundred_trials_of_fourteen_classes_stay_small(tmp_path: Path) -> None:
    classes = [f"class_{i:02d}" for i in range(14)]
    folder = write_report_sweep(tmp_path / "big", trials=200, epochs=60, classes=classes, side=256)
    path = report(ReportSettings(sweep=str(folder)))
    assert path.stat().st_size < MOST_BYTES
    page = read_report(path)
    assert len(page.sections["curves"].data["curves-all.csv"]) > 9000
    assert page.sections["predictions"].images


def test_it_lies_in_the_sweep_folder_or_where_it_is_told(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "results" / "a", [])
    before = set(folder.rglob("*"))
    assert report(ReportSettings(sweep=str(folder))) == folder / "report.html"
    assert set(folder.rglob("*")) - before == {folder / "report.html"}
    assert report(ReportSettings(sweep=str(folder), out=str(tmp_path))) == tmp_path / "a.html"
    named = tmp_path / "new" / "b.html"
    assert report(ReportSettings(sweep=str(folder), out=str(named))) == named
    assert report(ReportSettings(sweep="a", results_dir=str(tmp_path / "results"))) == folder / "report.html"


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [])
    path = tmp_path / "r.html"
    path.write_text(f'<meta name="generator" content="{GENERATOR}"> old')
    report(ReportSettings(sweep=str(folder), out=str(path)))
    assert "old" not in path.read_text()[:500]
    path.write_text("<html>somebody's page</html>")
    with pytest.raises(InputError, match="is no report, so it is not replaced"):
        report(ReportSettings(sweep=str(folder), out=str(path)))
    assert path.read_text() == "<html>somebody's page</html>"


def test_a_failed_write_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path / "a", [])
    path = report(ReportSettings(sweep=str(folder)))
    before = path.read_bytes()

    def full_disk(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(InputError, match="cannot be written"):
        report(ReportSettings(sweep=str(folder)))
    assert path.read_bytes() == before
    assert [file.name for file in folder.iterdir() if "partial" in file.name] == []


BAD = {
    "no such sweep": ({"sweep": "nowhere"}, "nowhere"),
    "no html": ({"out": "report.pdf"}, "neither a folder nor the name of an HTML file"),
    "empty sweep": ({"sweep": ""}, "a sweep is needed"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = write_sweep(tmp_path / "results" / "a", [])
    monkeypatch.chdir(tmp_path)
    words = {"sweep": str(folder), "results_dir": str(tmp_path / "results")} | given
    monkeypatch.setattr(sys, "argv", ["report", *(f"{key}={value}" for key, value in words.items())])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("error:") == 1
    assert "Traceback" not in complaint
    assert list(tmp_path.rglob("*.html")) == []


def test_it_says_where_the_report_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write_sweep(tmp_path / "a", [])
    assert report_and_print(ReportSettings(sweep=str(folder))).code == 0
    assert str(folder / "report.html") in capsys.readouterr().out


def test_a_family_has_one_colour_in_all_pictures_and_no_class_has_it(tmp_path: Path) -> None:
    findings = gather(Sweep(write_report_sweep(tmp_path / "a")))
    family = {trial.name: trial.family for trial in findings.sweep.trials}
    every, of_classes = curves(findings).parts
    lines = {trace.name: trace.line.color for trace in every.figure.data if trace.name in findings.families}
    boxes = {trace.name: trace.fillcolor for trace in families(findings).parts[0].figure.data}
    assert lines == boxes
    bars = {trace.name: trace.marker.color for trace in classes(findings).parts[0].figure.data}
    assert {name: lines[family[name]] for name in bars if "(baseline)" not in name} == {
        name: shade for name, shade in bars.items() if "(baseline)" not in name
    }
    assert [shade for name, shade in bars.items() if "(baseline)" in name] == [BASELINE]
    shades = {trace.line.color for trace in of_classes.figure.data}
    assert len(shades) == len(findings.sweep.classes)
    assert not {*shades, *(shade for shade, _ in ERRORS)} & {*lines.values(), BASELINE, BEST}
