"""python -m tune_app.summary sweep=latest: what a sweep has found, as a table, CSV, JSON or Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console

from tune_app.errors import require_input
from tune_app.reference import NOT_COMPARABLE, PUBLISHED_CAUTION, read_reference
from tune_app.render import fit, markdown, records, text_table, to_plain
from tune_app.results import Sweep
from tune_app.user_settings import user_setting

FORMATS = ("table", "csv", "json", "md")
PHANTOM = "PHANTOM DATA: generated volumes. These scores say nothing about real electron microscopy."
_DROPPABLE = ("arm", "seed", "family", "number", "minutes", "epochs", "best_epoch")


@dataclass(kw_only=True)
class SummarySettings:
    """What `python -m tune_app.summary` takes."""

    sweep: str = "latest"
    """latest, the name of a sweep in results_dir, or its folder. It may still be running."""
    results_dir: str = ""
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    format: str = "table"
    """table, csv, json or md."""
    reference: str = ""
    """Adds results of another pipeline, unranked: published (twelve published results), or a JSON or CSV file."""
    by: str = ""
    """What ranks: empty for the sweep's metric (mean_dice), or mean_iou, a class's name, dice/<class>, iou/<class>."""

    def __post_init__(self) -> None:
        require_input(bool(self.sweep), "sweep", self.sweep, "a sweep is needed", "Use sweep=latest")
        require_input(
            self.format in FORMATS, "format", self.format, f"choose one of {', '.join(FORMATS)}", "Use format=table"
        )


@dataclass(frozen=True)
class Report:
    """What a summary says, before it has a form. notices: what must be known first. cautions: how far to trust it."""

    sweep: Sweep
    notices: list[str]
    leaderboard: pd.DataFrame
    reference: pd.DataFrame
    best_per_class: pd.DataFrame
    repeated: pd.DataFrame
    failed: pd.DataFrame
    cautions: list[str]

    def titled_tables(self) -> list[tuple[str, pd.DataFrame]]:
        """The tables after the leaderboard; empty ones are left out."""
        tables = [
            (f"Reference: {NOT_COMPARABLE}", _shown(self.reference)),
            ("Best configuration per class", self.best_per_class.drop(columns=["arm"])),
            ("Configurations run more than once, or under several names", self.repeated),
            ("Failed trials", self.failed),
        ]
        return [(title, frame) for title, frame in tables if len(frame)]


def summarise(settings: SummarySettings, *, width: int | None = None, color: bool = False) -> str:
    """The summary of a sweep as text in the form that `settings.format` names.

    width: characters per line for format=table; None leaves lines as long as they are. Raises InputError.
    """
    return _as_text(build_report(settings), settings.format, width, color)


def _as_text(report: Report, form: str, width: int | None, color: bool) -> str:
    if form == "csv":
        return as_csv(report)
    if form == "json":
        return as_json(report)
    return as_markdown(report) if form == "md" else as_table(report, width, color)


def build_report(settings: SummarySettings) -> Report:
    """Read the sweep and put together what there is to say."""
    sweep = Sweep(settings.sweep, settings.results_dir or user_setting("results_dir", "results"))
    board = sweep.leaderboard(settings.by)
    arms = sweep.arms()
    reference = read_reference(settings.reference, sweep.classes) if settings.reference else pd.DataFrame()
    return Report(
        sweep=sweep,
        notices=_notices(sweep),
        leaderboard=board,
        reference=reference,
        best_per_class=sweep.best_per_class(),
        repeated=arms[arms["trials"] > 1][["arm", "names", "trials", "runs", "mean", "sd", "min", "max"]],
        failed=board.loc[board["reason"].astype(str) != "", ["name", "status", "epochs", "reason"]],
        cautions=_cautions(sweep, board) + [PUBLISHED_CAUTION] * (settings.reference == "published"),
    )


def _notices(sweep: Sweep) -> list[str]:
    go_on = f"go on with: python -m tune_app.run resume={sweep.folder}"
    state = {
        "running": ["the sweep is still running: the ranks are not final"],
        "crashed": [f"the driver ended without finishing the sweep; {go_on}"],
        "interrupted": [f"the sweep was interrupted; {go_on}"],
    }.get(sweep.status, [])
    return [*([PHANTOM] if sweep.phantom else []), *state, *sweep.notices]


def _cautions(sweep: Sweep, board: pd.DataFrame) -> list[str]:
    ranked = board[board["rank"].notna()]
    if ranked.empty:
        return ["No trial has a score yet."]
    cautions = ["A row is one run: a screening score, not a result. Repeat the best with seeds= before choosing."]
    noise = sweep.noise()
    if noise is not None:
        cautions.append(
            f"Noise between runs of one configuration: sd {noise.sd:.4f} ({noise.arms} repeated, {noise.dof} degrees "
            f"of freedom). Two single runs must differ by {noise.difference:.4f} to be believed at 95 %."
        )
    stopped = int((ranked["status"] == "stopped early").sum())
    if stopped:
        cautions.append(f"{stopped} trials were stopped early: theirs are scores of fewer epochs.")
    return cautions


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of a leaderboard for the eye: those that say something, the arm only where it repeats."""
    if not len(frame):
        return frame
    if "arm_trials" in frame:
        frame = frame.assign(arm=frame["arm"].where(frame["arm_trials"] > 1, ""))
    hidden = [c for c in frame.columns if c in ("preset", "reason", "arm_trials") or str(c).startswith("param/")]
    constant = [c for c in ("family", "arm", "seed", "minutes") if c in frame and frame[c].nunique(dropna=False) == 1]
    return frame.drop(columns=[*hidden, *constant], errors="ignore")


def as_table(report: Report, width: int | None, color: bool) -> str:
    """Plain or coloured tables; one that is too wide for the terminal loses columns, then is split."""
    sweep = report.sweep
    blocks = [f"{sweep.name}   {sweep.status}, {len(sweep.trials)} trials   {sweep.folder}"]
    blocks += [f"!! {notice}" for notice in report.notices]
    for frame in fit(_shown(report.leaderboard), width, _DROPPABLE, ("rank", "name")):
        blocks.append(text_table(frame, width, color=color, bold_first=True))
    for title, table in report.titled_tables():
        pages = fit(table, width, ("names",), ("name", "class", "arm"))
        blocks.append("\n".join([title, *(text_table(page, width, color=color) for page in pages)]))
    return "\n\n".join([*blocks, "\n".join(report.cautions)])


def as_markdown(report: Report) -> str:
    """GitHub Markdown: a heading, the notices in bold, the tables, the cautions."""
    sweep = report.sweep
    blocks = [f"## {sweep.name}", f"{sweep.status}, {len(sweep.trials)} trials"]
    blocks += [f"**{notice}**" for notice in report.notices] + [markdown(_shown(report.leaderboard))]
    for title, frame in report.titled_tables():
        blocks += [f"### {title}", markdown(frame)]
    return "\n\n".join([*blocks, *report.cautions])


def as_csv(report: Report) -> str:
    """One row per trial and reference, exact: floats as they were computed. `data` and `note` say what a row is."""
    data = report.sweep.manifest.get("data", {}).get("name", "")
    frame = report.leaderboard.assign(data=data, note="phantom data" if report.sweep.phantom else "")
    if len(report.reference):
        other = report.reference.assign(status="reference", data="other", note=NOT_COMPARABLE)
        frame = frame.astype(object)
        rows = [*frame.to_dict("records"), *other.to_dict("records")]
        frame = pd.DataFrame(rows, columns=frame.columns, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n").rstrip("\n")


def as_json(report: Report) -> str:
    """One object with everything the table says; scores exact, null where there is none."""
    sweep, noise = report.sweep, report.sweep.noise()
    found: Mapping[str, Any] = {
        "sweep": sweep.name,
        "folder": str(sweep.folder),
        "status": sweep.status,
        "phantom": sweep.phantom,
        "metric": sweep.metric,
        "classes": list(sweep.classes),
        "notices": report.notices,
        "leaderboard": records(report.leaderboard),
        "reference": [{**row, "note": NOT_COMPARABLE} for row in records(report.reference)],
        "best_per_class": records(report.best_per_class),
        "arms": records(sweep.arms()),
        "families": records(sweep.families()),
        "noise": noise and {"sd": noise.sd, "dof": noise.dof, "arms": noise.arms, "difference": noise.difference},
        "failed": records(report.failed),
        "cautions": report.cautions,
    }
    return json.dumps(to_plain(found), indent=2, allow_nan=False)


def summarise_and_print(settings: SummarySettings) -> int:
    """Print the summary: in a terminal as wide as it is, otherwise plain. Warnings of a CSV go to standard error."""
    console = Console()
    terminal = console.is_terminal
    report = build_report(settings)
    width = console.width if terminal else None
    print(_as_text(report, settings.format, width, terminal and not console.no_color))
    if settings.format == "csv":
        for notice in report.notices:
            print(f"!! {notice}", file=sys.stderr)
    return 0


def main() -> None:
    from tune_app.command_line import run_verb

    run_verb("summary", SummarySettings, summarise_and_print)


if __name__ == "__main__":
    main()
