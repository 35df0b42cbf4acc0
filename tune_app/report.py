"""python -m tune_app.report sweep=latest: one HTML file that shows what a sweep has found, readable without a network.

It works while the sweep runs, after a crash, and on an empty sweep; a section with nothing to show says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from tune_app.results.folders import spoken
from tune_app.results.manifest import now
from tune_app.results.summary import notices
from tune_app.results.sweep import Sweep
from tune_app.settings.document import FORMATS, Ended

REPORT = "report.html"
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
    format: str = "table"
    """table or json (docs/json.md)."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)


def report(settings: ReportSettings) -> Path:
    """Write the report, whole or not at all; its path. Raises InputError before anything is written."""
    sweep = Sweep(settings.sweep, settings.results_dir)
    path = target(settings.out, sweep)
    refuse_to_replace(path)
    save(build(gather(sweep)), path)
    return path


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
        sections=[section(findings) for section in SECTIONS],
        footer=f"Written {now()[:16]} by python -m tune_app.report sweep={spoken(sweep.folder)}. Plots by Plotly.",
    )


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
    path = report(settings)
    size = path.stat().st_size
    sections = counted(len(SECTIONS), "section")
    print(f"{path}   {size / 1e6:.1f} MB, {sections}; open it in any browser, it needs no network")
    return Ended(lambda: {"file": path, "bytes": size, "sections": len(SECTIONS)})


def main() -> None:
    from tune_app.settings.command_line import run_verb

    run_verb("report", ReportSettings, report_and_print)


if __name__ == "__main__":
    main()
