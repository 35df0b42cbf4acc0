"""python -m tune_app.summary sweep=latest: what a sweep has found, as a table, CSV, JSON or Markdown."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from trainables.calibration import CALIBRATED, GAP
from trainables.settings import PATH, require, require_choice
from tune_app.errors import InputError
from tune_app.results.baseline import NOT_RUN, add_command, baseline_trials, gains, verdicts, with_baseline_row
from tune_app.results.cost import HOURS, MEMORY, about_fronts, for_the_eye, front
from tune_app.results.finding import DROPPABLE, confirmed_table, read_confirmation, what_is_confirmed
from tune_app.results.folders import is_confirmation, resume_command, spoken
from tune_app.results.reference import NOT_COMPARABLE, PUBLISHED_CAUTION, read_reference
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted, csv_text, markdown, markdown_text, records, sentences, text_pages
from tune_app.settings.document import Ended, as_json
from tune_app.settings.terminal import drawing, plain, screen

FORMATS = ("table", "csv", "json", "md")
RANKINGS = ("dice", "calibrated")
PHANTOM = "PHANTOM DATA: generated. These scores say nothing about real data."
NOT_VALIDATED = (
    "NOT VALIDATED: the validation crops were trained on, too (final=), so scores on them say nothing of other data."
)
_DROPPABLE = (GAP, "arm", "seed", "family", "number", "minutes", "epochs", "best_epoch")


@dataclass(kw_only=True)
class SummarySettings:
    """What `python -m tune_app.summary` takes."""

    sweep: str = field(default="latest", metadata=PATH)
    """latest, the name of a sweep in results_dir, or its folder. It may still be running."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    format: str = "table"
    """table, csv, json or md."""
    reference: str = field(default="", metadata=PATH)
    """Adds results of another pipeline, unranked: published (fifteen published results), or a JSON or CSV file."""
    by: str = ""
    """What ranks: empty for the sweep's metric, or mean_iou, a class's name, dice/<class>, iou/<class>."""
    rank_by: str = "dice"
    """dice: at a threshold of 0.5. calibrated: at thresholds of a trial's own per class, chosen on one half of the
    validation crops and scored on the other."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        require_choice("rank_by", self.rank_by, RANKINGS)
        require(
            self.rank_by == "dice" or "iou" not in self.by,
            "by",
            self.by,
            "rank_by=calibrated ranks by Dice only",
            "Use by= with a class, or rank_by=dice",
        )


@dataclass(frozen=True)
class Report:
    """What a summary says, before it has a form. notices: what must be known first. cautions: how far to trust it.

    rank_by: the column that ranks. thresholds: those of the first row and of the baseline.
    """

    sweep: Sweep
    notices: list[str]
    rank_by: str
    leaderboard: pd.DataFrame
    reference: pd.DataFrame
    thresholds: pd.DataFrame
    best_per_class: pd.DataFrame
    repeated: pd.DataFrame
    failed: pd.DataFrame
    diagnoses: pd.DataFrame
    cautions: list[str]
    confirmation: Mapping[str, Any]
    """What `confirm` found, {} where it was not run."""

    def titled_tables(self) -> list[tuple[str, pd.DataFrame]]:
        """The tables after the leaderboard; empty ones are left out."""
        noted = self.thresholds["note"].astype(bool).any()
        thresholds = self.thresholds if noted else self.thresholds.drop(columns="note")
        tables = [
            ("Confirmed on fresh seeds", confirmed_table(self.confirmation)),
            (f"Reference: {NOT_COMPARABLE}", _shown(self.reference)),
            ("Best configuration per class", self.best_per_class.drop(columns=["arm"])),
            ("Thresholds per class: the first row's and the baseline's", thresholds),
            ("Configurations run more than once, or under several names", self.repeated),
            ("What went wrong", self.diagnoses),
        ]
        return [(title, frame) for title, frame in tables if len(frame)]


def as_text(report: Report, form: str, width: int | None = None, color: bool = False) -> str:
    """width: characters per line for the form `table`; None leaves lines as long as they are."""
    if form == "csv":
        return as_csv(report)
    if form == "json":
        return as_json("summary", document(report))
    return as_markdown(report) if form == "md" else as_table(report, width, color)


def build_report(settings: SummarySettings) -> Report:
    """Read the sweep and put together what there is to say."""
    sweep = Sweep(settings.sweep, settings.results_dir)
    by = _ranking(settings, sweep)
    board = with_baseline_row(sweep.leaderboard(by), sweep)
    arms = sweep.arms()
    given = settings.reference
    reference = read_reference(given, sweep.classes, sweep.metric) if given else pd.DataFrame()
    found = read_confirmation(sweep.folder)
    first = board.loc[board["rank"].notna(), "name"].head(1)
    confirmed = what_is_confirmed(sweep, found, sweep.trial(first.iloc[0]) if len(first) else None)
    return Report(
        sweep=sweep,
        notices=notices(sweep),
        rank_by=by or sweep.metric,
        leaderboard=board,
        reference=reference,
        thresholds=_thresholds(sweep, board),
        best_per_class=sweep.best_per_class(),
        repeated=arms[arms["trials"] > 1][["arm", "names", "trials", "runs", "mean", "sd", "min", "max"]],
        failed=board.loc[board["status"].astype(str).str.startswith("failed"), ["name", "status", "epochs", "reason"]],
        diagnoses=sweep.diagnoses(),
        confirmation=found,
        cautions=[
            *about_fronts(sweep.trials, sweep.device),
            *confirmed,
            *cautions(sweep, board, confirmed=bool(found)),
            *[PUBLISHED_CAUTION] * (settings.reference == "published"),
        ],
    )


def _ranking(settings: SummarySettings, sweep: Sweep) -> str:
    """The column of the leaderboard that `by` and `rank_by` mean; "" for the sweep's metric."""
    if settings.rank_by == "dice":
        return settings.by
    name = settings.by.removeprefix("dice/").removeprefix("calibrated/")
    if name in ("", sweep.metric, CALIBRATED):
        return CALIBRATED
    if name not in sweep.classes:
        raise InputError(
            f"by={settings.by} rank_by=calibrated: there is no such class. "
            f"Choices: {', '.join(sweep.classes)}, or leave by= out."
        )
    return f"calibrated/{name}"


def _thresholds(sweep: Sweep, board: pd.DataFrame) -> pd.DataFrame:
    """name, class, dice, calibrated, gap, threshold (σ) and note of the first row and of the first baseline."""
    ranked = board.loc[board["rank"].notna(), "name"]
    chosen = [sweep.trial(ranked.iloc[0])] if len(ranked) else []
    chosen += [t for t in baseline_trials(sweep)[:1] if t not in chosen]
    columns = ["name", "class", "dice", "calibrated", "gap", "threshold", "note"]
    rows = [
        (trial.name, c.classes[i], c.dice[i], c.calibrated[i], c.calibrated[i] - c.dice[i], p, c.reasons[i])
        for trial in chosen
        for c in (trial.calibration,)
        for i, p in enumerate(c.probabilities)
    ]
    return pd.DataFrame(rows, columns=columns)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of a leaderboard for the eye: those that say something, the arm only where it repeats."""
    if not len(frame):
        return frame
    run = tuned = frame
    if "baseline" in frame:
        baseline = frame["baseline"].astype(bool)
        frame = frame.assign(
            arm=frame["arm"].where(frame["arm_trials"] > 1, ""),
            name=frame["name"].where(~baseline, frame["name"].astype(str) + " (baseline)"),
        )
        run, tuned = frame[frame["status"] != NOT_RUN], frame[~baseline]
    unsaid = ("preset", "reason", "diagnoses", "arm_trials", "baseline", "calibration")
    hidden = [c for c in frame.columns if c in unsaid or str(c).startswith(("param/", "threshold/", "calibrated/"))]
    hidden += [c for c in (CALIBRATED, GAP) if c in frame and frame[c].isna().all()]
    constant = [c for c in ("arm", "seed", "minutes", "origin") if c in run and run[c].nunique(dropna=False) <= 1]
    constant += ["family"] if "family" in tuned and tuned["family"].nunique(dropna=False) <= 1 else []
    return frame.drop(columns=[*hidden, *constant], errors="ignore")


def _board(report: Report) -> pd.DataFrame:
    """The leaderboard for the eye, with the column that ranks."""
    shown = _shown(report.leaderboard)
    if report.rank_by not in shown and report.rank_by in report.leaderboard:
        shown.insert(list(shown).index(report.sweep.metric), report.rank_by, report.leaderboard[report.rank_by])
    return for_the_eye(shown, report.sweep.trials, report.sweep.device)


def as_table(report: Report, width: int | None, color: bool) -> str:
    """Plain or coloured tables; one that is too wide for the terminal loses columns, then is split."""
    sweep = report.sweep
    blocks = [plain(f"{sweep.name}   {sweep.status}, {counted(len(sweep.trials), 'trial')}   {sweep.folder}")]
    blocks += [sentences(plain(f"!! {notice}"), width) for notice in report.notices]
    blocks.append(text_pages(_board(report), width, _DROPPABLE, ("rank", "name"), color=color, bold_first=True))
    for title, table in report.titled_tables():
        shown = text_pages(table, width, ("names", *DROPPABLE), ("name", "class", "arm"), color=color)
        blocks.append(f"{sentences(title, width)}\n{shown}")
    return "\n\n".join([*blocks, sentences(plain("\n".join(report.cautions)), width)])


def as_markdown(report: Report) -> str:
    """GitHub Markdown: a heading, the notices in bold, the tables, the cautions."""
    sweep = report.sweep
    blocks = [f"## {markdown_text(sweep.name)}", f"{sweep.status}, {counted(len(sweep.trials), 'trial')}"]
    blocks += [f"**{markdown_text(notice)}**" for notice in report.notices] + [markdown(_board(report))]
    for title, frame in report.titled_tables():
        blocks += [f"### {title}", markdown(frame)]
    return "\n\n".join([*blocks, *map(markdown_text, report.cautions)])


def as_csv(report: Report) -> str:
    """One row per trial and reference, exact: floats as they were computed. `data` and `note` say what a row is."""
    data = report.sweep.manifest.get("data", {}).get("name", "")
    frame = report.leaderboard.assign(data=data, note="phantom data" if report.sweep.phantom else "")
    if len(report.reference):
        other = report.reference.assign(status="reference", data="other", note=NOT_COMPARABLE)
        frame = frame.astype(object)
        rows = [*frame.to_dict("records"), *other.to_dict("records")]
        frame = pd.DataFrame(rows, columns=frame.columns, dtype=object)
    return csv_text(frame).rstrip("\n")


def document(report: Report) -> dict[str, Any]:
    """Everything the table says; scores exact, null where there is none."""
    sweep, noise = report.sweep, report.sweep.noise()
    return {
        "sweep": sweep.name,
        "folder": sweep.folder,
        "status": sweep.status,
        "phantom": sweep.phantom,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "rank_by": report.rank_by,
        "classes": list(sweep.classes),
        "notices": report.notices,
        "leaderboard": records(report.leaderboard),
        "reference": [{**row, "note": NOT_COMPARABLE} for row in records(report.reference)],
        "pareto": {cost: [trial.name for trial in front(sweep.trials, cost)] for cost in (HOURS, MEMORY)},
        "best_per_class": records(report.best_per_class),
        "baseline": {
            "trials": [trial.name for trial in baseline_trials(sweep)],
            "run_it": "" if baseline_trials(sweep) else add_command(sweep),
        },
        "gains": [asdict(gain) for gain in gains(sweep)],
        "thresholds": records(report.thresholds),
        "arms": records(sweep.arms()),
        "families": records(sweep.families()),
        "noise": noise and {"sd": noise.sd, "dof": noise.dof, "arms": noise.arms, "difference": noise.difference},
        "failed": records(report.failed),
        "diagnoses": records(report.diagnoses),
        "confirmation": report.confirmation or None,
        "cautions": report.cautions,
    }


def notices(sweep: Sweep) -> list[str]:
    how = f"resume with: {resume_command(sweep.folder)}"
    state = {
        "running": ["the sweep is still running: the ranks are not final"],
        "crashed": [f"the driver ended without finishing the sweep; {how}"],
        "interrupted": [f"the sweep was interrupted; {how}"],
    }.get(sweep.status, [])
    unseen = [] if sweep.validated else [NOT_VALIDATED]
    return [*([PHANTOM] if sweep.phantom else []), *unseen, *state, *sweep.notices]


def cautions(sweep: Sweep, board: pd.DataFrame, *, confirmed: bool = False) -> list[str]:
    """How far a leaderboard can be trusted. confirmed: replicates have already said what can be told apart."""
    ranked = board[board["rank"].notna()]
    if ranked.empty:
        return ["No trial has a score yet.", *([] if baseline_trials(sweep) else verdicts(sweep))]
    found = ["A row of the leaderboard is one run: a screening score, not a result."]
    if sweep.nearest:
        found.insert(0, sweep.nearest)
    elif sweep.objective.bounds:
        found.insert(0, f"First come the trials that keep the bounds: {sweep.objective.bounds}.")
    if not confirmed and not is_confirmation(sweep.folder):
        found[-1] += f" Before choosing: python -m tune_app.confirm sweep={spoken(sweep.folder)}"
    noise = sweep.noise()
    if noise is not None:
        found.append(
            f"Noise between runs of one configuration: sd {noise.sd:.4f} ({noise.arms} repeated, {noise.dof} degrees "
            f"of freedom). Two single runs must differ by {noise.difference:.4f} to be believed at 95 %."
        )
    stopped = int((ranked["status"] == "stopped early").sum())
    if stopped:
        were = "was stopped early: its score is" if stopped == 1 else "were stopped early: theirs are scores"
        found.append(f"{counted(stopped, 'trial')} {were} of fewer epochs.")
    if paused := int((ranked["status"] == "paused").sum()):
        were = (
            "paused at a rung and did not go on: its score is" if paused == 1 else "paused at rungs: theirs are scores"
        )
        found.append(f"{counted(paused, 'trial')} {were} of fewer epochs.")
    return found + ([] if confirmed else verdicts(sweep)) + about_calibration(sweep)


def about_calibration(sweep: Sweep) -> list[str]:
    """What `calibrated` means, and where it is missing."""
    found = [trial.calibration for trial in sweep.trials if trial.best]
    lost = [c for c in found if not math.isfinite(c.calibrated_mean)]
    if lost and len(lost) == len(found):
        return [f"No calibrated Dice: {lost[0].notes}."]
    chosen = "" if sweep.metric.startswith("calibrated") else ", which was chosen at 0.5"
    told = [
        "Calibrated: at a threshold per class, chosen on one half of the validation crops and scored on the other; the "
        f"leaderboard shows the best epoch{chosen}."
    ]
    if lost:
        told.append(f"{counted(len(lost), 'trial')} without calibrated Dice, the first because {lost[0].notes}.")
    partly = next((c.notes for c in found if c not in lost and c.notes), "")
    return told + ([f"Not calibrated, counted at 0.5: {partly}."] if partly else [])


def summarise_and_print(settings: SummarySettings) -> Ended:
    """Print the summary: in a terminal as wide as it is, otherwise plain. Warnings of a CSV go to standard error."""
    report = build_report(settings)
    if settings.format != "json":
        text = as_text(report, settings.format, *screen())
        print(text, file=drawing(sys.stdout) if settings.format == "table" else sys.stdout)
    if settings.format == "csv":
        for notice in report.notices:
            print(f"!! {notice}", file=sys.stderr)
    return Ended(lambda: document(report))
