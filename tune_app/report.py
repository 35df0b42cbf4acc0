"""python -m tune_app.report sweep=latest: one HTML file that shows what a sweep has found, readable without a network.

It works while the sweep runs, after a crash, and on an empty sweep; a section with nothing to show says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainables.settings import PATH, require_choice
from tune_app.errors import InputError
from tune_app.reporting.confirmation import confirmation
from tune_app.reporting.curves import curves
from tune_app.reporting.families import families
from tune_app.reporting.findings import Findings, counted, diagnoses, gather, manifest
from tune_app.reporting.leaderboard import classes, leaderboard
from tune_app.reporting.ledger import ledger, plan_and_reality
from tune_app.reporting.page import Page, Section, refuse_to_replace, save, short
from tune_app.reporting.parameters import parameters
from tune_app.reporting.predictions import predictions
from tune_app.reporting.thresholds import thresholds
from tune_app.reporting.under_way import under_way
from tune_app.results.finding import CONFIRMATION
from tune_app.results.folders import LOCK, find_sweep, lock_is_held, spoken
from tune_app.results.manifest import now
from tune_app.results.summary import notices
from tune_app.results.sweep import Sweep
from tune_app.results.trial import Trial
from tune_app.settings.document import FORMATS, Ended

REPORT = "report.html"
PAUSE_S, LOOK_EVERY_S = 10.0, 2.0
MOST_CPU = 0.01
"""Share of one core that follow=true takes."""
SECTIONS: Sequence[Callable[[Findings], Section]] = (
    leaderboard,
    confirmation,
    classes,
    curves,
    families,
    parameters,
    thresholds,
    predictions,
    ledger,
    plan_and_reality,
    diagnoses,
    manifest,
)
"""In the order of the page."""


@dataclass(kw_only=True)
class ReportSettings:
    """What `python -m tune_app.report` takes."""

    sweep: str = field(default="latest", metadata=PATH)
    """latest, the name of a sweep in results_dir, or its folder. It may still be running."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    out: str = field(default="", metadata=PATH)
    """File to write, ending in .html, or a folder for SWEEP.html; empty: report.html in the sweep's folder. An earlier
    report there is replaced; anything else is left alone."""
    follow: bool = False
    """Write it again as epochs end, until the sweep has ended; the page loads itself again and keeps its place."""
    format: str = "table"
    """table or json (docs/json.md)."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)


def report(settings: ReportSettings) -> Path:
    """Write the report, whole or not at all; its path. Raises InputError before anything is written."""
    return write(Sweep(settings.sweep, settings.results_dir), settings)


def write(sweep: Sweep, settings: ReportSettings, reload_s: float = 0.0) -> Path:
    """The same, of a sweep that was read. reload_s: after so many seconds the page loads itself again; 0: never."""
    path = target(settings.out, sweep)
    refuse_to_replace(path)
    save(replace(build(gather(sweep)), reload_s=reload_s), path)
    return path


def follow(settings: ReportSettings) -> Path:
    """The same, again and again until the sweep has ended.

    It is written when something has changed and the pause since the last time is over, which is as long as keeps this
    process below `MOST_CPU` of a core; and once more, at once, when the sweep has ended.
    """
    folder, pause, due = find_sweep(settings.sweep, settings.results_dir), PAUSE_S, 0.0
    written: list[Any] = []
    read: dict[str, Trial] = {}
    while True:
        seen, ended = state_of(folder), not lock_is_held(folder / LOCK)
        if ended or (seen != written and time.monotonic() >= due):
            began, sweep = time.process_time(), Sweep(folder)
            # A trial that is as it was keeps what was worked out of its validation, the dearest part of a page.
            sweep.trials = tuple(old if (old := read.get(new.name)) == new else new for new in sweep.trials)
            path = write(sweep, settings, reload_s=0.0 if ended else pause)
            if not written and not ended:
                print(f"{path.absolute().as_uri()}   written again as epochs end; Ctrl-C ends that", flush=True)
            read, written = {trial.name: trial for trial in sweep.trials}, seen
            pause = max(PAUSE_S, (time.process_time() - began) / MOST_CPU)
            due = time.monotonic() + pause
        if ended:
            return path
        time.sleep(LOOK_EVERY_S)


def state_of(folder: Path) -> list[Any]:
    """What differs once a trial has begun, an epoch has ended, or the search has gone on."""
    files = [folder / "study.journal", folder / CONFIRMATION, *sorted(folder.glob("trials/*/history.jsonl"))]
    return [(path.name, path.stat().st_size) if path.is_file() else path.name for path in files]


def target(out: str, sweep: Sweep) -> Path:
    """The file to write."""
    if not out:
        return sweep.folder / REPORT
    path = Path(out).expanduser()
    if path.is_dir():
        return path / f"{sweep.name}.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"out={out}: neither a folder nor the name of an HTML file. Use out={path.stem or 'report'}.html."
        )
    return path


def build(findings: Findings) -> Page:
    """All sections of the page."""
    sweep = findings.sweep
    return Page(
        title=f"Sweep {sweep.name}",
        notices=notices(sweep),
        facts=facts(findings),
        sections=[section(findings) for section in sections_of(sweep)],
        footer=f"Written {now()[:16]} by python -m tune_app.report sweep={spoken(sweep.folder)}. Plots by Plotly.",
    )


def sections_of(sweep: Sweep) -> Sequence[Callable[[Findings], Section]]:
    """Those of its page: a sweep that runs begins with what it is at."""
    return (under_way, *SECTIONS) if sweep.status == "running" else SECTIONS


def facts(findings: Findings) -> list[tuple[str, str]]:
    """The sweep in a few figures."""
    sweep, best = findings.sweep, findings.best
    by_status = {status: sum(t.status == status for t in sweep.trials) for status in {t.status for t in sweep.trials}}
    trials = ", ".join(f"{number} {status}" for status, number in sorted(by_status.items()))
    found = [
        ("Status", sweep.status),
        ("Family", str(sweep.manifest.get("family") or "unknown")),
        ("Trials", f"{len(sweep.trials)}{f' ({trials})' if trials else ''}"),
        ("Epochs trained", str(sum(trial.epochs for trial in sweep.trials))),
        ("Data", str((sweep.manifest.get("data") or {}).get("name") or "unknown")),
        ("Classes", ", ".join(sweep.classes) or "unknown"),
        ("Begun", str(sweep.manifest.get("created") or "unknown")[:16].replace("T", " ")),
    ]
    if best is not None:
        missed = f"; it misses the bounds {sweep.objective.bounds}" if best.violation else ""
        score = short(float(best.best[sweep.metric]))
        found.insert(
            0,
            (
                "Nearest" if best.violation else "Best",
                f"{best.name}: {findings.metric} {score} at epoch {best.best['epoch']}{missed}",
            ),
        )
    return found


def report_and_print(settings: ReportSettings) -> Ended:
    """Write the report and say where it is."""
    path = follow(settings) if settings.follow else report(settings)
    size, sections = path.stat().st_size, path.read_text().count("<section id=")
    print(f"{path}   {size / 1e6:.1f} MB, {counted(sections, 'section')}; open it in any browser, it needs no network")
    return Ended(lambda: {"file": path, "bytes": size, "sections": sections})


def main() -> None:
    from tune_app.settings.command_line import run_verb

    run_verb("report", ReportSettings, report_and_print)


if __name__ == "__main__":
    main()
