"""Two trials or exports side by side: settings, figures, curves, pictures, and the runs of their arms that pair.

Two kinds of doubt are kept apart. Other validation crops might favour the other network: figures that are counted per
crop have an interval for that. Another seed might, too: that is known only where both configurations were trained with
seeds in common, in their sweeps or in confirmations of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from trainables.calibration import CALIBRATED
from trainables.settings import TaskSettings
from trainables.tasks import get_task
from tune_app.confirmation.runs import is_sound, scored_counts
from tune_app.evidence.crops import difference_over_crops
from tune_app.reporting.compare_sweeps import PAIRED, Compared, difference, differing_settings, pair_told, same_data
from tune_app.reporting.page import Gallery, Plot, Section, Table
from tune_app.reporting.plots import color, dash, differences, figure, symbol
from tune_app.reporting.predictions import overview, read_shown
from tune_app.results.cost import HOURS, MEMORY, costs
from tune_app.results.folders import CONFIRMATIONS, is_sweep
from tune_app.results.run import Run
from tune_app.results.summary import NOT_VALIDATED, PHANTOM
from tune_app.results.sweep import Sweep
from tune_app.results.tables import header, in_words
from tune_app.results.trial import is_finite
from tune_app.settings.document import to_plain

SECTIONS = ("loss.", "data.", "task.", "model.", "trainer.", "hardware.", "resources.", "objective.", "seed")
BOOKKEEPING = ("best_", "seconds_", "time_", "sigmoid/", "weight/", "shift/", "support/", "fg_true/", "loss/", "term/")
PLAIN = ("epoch", "grad_norm", "grad_scale", "skipped_share", "weight_growth", "lr", "patches_per_s", "compiled_graphs")
"""Figures of a row that say nothing of how good a network is."""


@dataclass(frozen=True, kw_only=True)
class RunComparison(Compared):
    """Two runs. figures: figure, a, b, difference, low, high (over crops); facts: what each of them is."""

    runs: tuple[Run, Run]
    facts: pd.DataFrame
    figures: pd.DataFrame
    same_loss: bool
    """Else their losses are not of one scale."""
    kind = "runs"

    def tables(self) -> list[tuple[str, pd.DataFrame, Sequence[str], Sequence[str]]]:
        return [
            (f"a = {self.names[0]}, b = {self.names[1]}", self.facts, (), ("run",)),
            ("Figures of the best epochs; low and high: of the difference, over crops", self.figures, (), ("figure",)),
            ("Runs of one seed", self.paired_table(), (), ("arm",)),
        ]

    @property
    def frames(self) -> Mapping[str, pd.DataFrame]:
        return {"facts": self.facts, "figures": self.figures}

    def sections(self) -> list[Section]:
        drawn: list[Plot | Gallery | Table] = []
        rows = self.figures.dropna(subset=["low"])
        if len(rows):
            label = f"{self.names[1]} − {self.names[0]}"
            shown = differences(
                rows, [in_words(n) for n in rows["figure"]], ("difference", "low", "high"), color(0), label
            )
            alt = "Differences of Dice, 95 % intervals over the validation crops. One that holds 0 shows none."
            drawn.append(Plot(key="figure-differences", title="Differences", alt=alt, figure=shown, data=rows))
        drawn.append(Table(key="figures-table", title="Figures of the best epochs", frame=self.figures))
        return [
            Section(key="runs", title="Runs", parts=[Table(key="runs-table", title="What they are", frame=self.facts)]),
            Section(key="figures", title="Figures", parts=drawn),
            self.paired_section(),
            self._curves(),
            self._pictures(),
        ]

    def _curves(self) -> Section:
        metric = self.runs[0].trial.metric
        told = dict.fromkeys([metric, *["val_loss"] * self.same_loss])
        parts = [plot for name in told if (plot := self._curve(name)) is not None]
        nothing = "" if parts else "Nothing to draw: neither has finished an epoch."
        return Section(key="curves", title="Training curves", parts=parts, nothing=nothing)

    def _curve(self, name: str) -> Plot | None:
        traces, rows = [], []
        for index, (called, run) in enumerate(zip(self.names, self.runs)):
            points = [(row["epoch"], row[name]) for row in run.trial.history if is_finite(row.get(name))]
            rows += [{"run": called, "epoch": epoch, name: value} for epoch, value in points]
            x, y = zip(*points) if points else ((), ())
            traces.append(
                go.Scatter(
                    x=x,
                    y=y,
                    name=called,
                    mode="lines+markers",
                    line={"color": color(index), "dash": dash(index), "width": 2},
                    marker={"symbol": symbol(index), "size": 6},
                )
            )
        if not rows:
            return None
        best = [f"{n} is best at epoch {r.trial.best['epoch']}" for n, r in zip(self.names, self.runs) if r.trial.best]
        return Plot(
            key=f"curve-{name}",
            title=f"{header(name)} over the epochs",
            alt=f"{header(name)} of both over their epochs; {', '.join(best)}.",
            figure=figure(traces, height=400, x="epoch", y=header(name)),
            data=pd.DataFrame(rows),
        )

    def _pictures(self) -> Section:
        shown = [read_shown(run.trial) for run in self.runs]
        if shown[0] is None or shown[1] is None:
            lacking = " and ".join(name for name, one in zip(self.names, shown) if one is None)
            nothing = f"Nothing to show: {lacking} left no pictures, or an export's sweep is no longer there."
        elif shown[0].em.shape != shown[1].em.shape or not (shown[0].em == shown[1].em).all():
            nothing = "Not shown: they left pictures of different patches."
        else:
            parts = [overview({"a": shown[0], "b": shown[1]})]
            return Section(key="predictions", title="Predictions", parts=parts)
        return Section(key="predictions", title="Predictions", nothing=nothing)


def compare_runs(a: Run, b: Run) -> RunComparison:
    """Put together what there is to say."""
    runs = (a, b)
    same, told = same_data(a.about, b.about, "run")
    differing = differing_settings(a.trial.config, b.trial.config, SECTIONS)
    same_loss = not differing["setting"].str.startswith("loss.").any()
    figures = _figures(a, b, comparable=same is not False and "data.split_seed" not in set(differing["setting"]))
    if not same_loss and a.trial.metric != "val_loss":
        figures = figures[figures["figure"] != "val_loss"].reset_index(drop=True)
    ranked = same is not False and a.trial.objective == b.trial.objective
    paired = _paired(a, b) if ranked else pd.DataFrame(columns=list(PAIRED))
    if a.trial.objective != b.trial.objective:
        words = [f"{run.trial.metric} {run.trial.objective.bounds}".strip() for run in runs]
        told.append(f"different objectives, {words[0]} and {words[1]}: each is shown at its own best epoch")
    told += [PHANTOM] if any(run.data.get("phantom") for run in runs) else []
    for run in runs:
        told += [f"{run.name}: {NOT_VALIDATED}"] if run.about.get("validated") is False else []
        told += [f"{run.name}: {run.trial.status}{f', {run.trial.reason}' if run.trial.reason else ''}"] * (
            run.trial.status != "finished"
        )
        told += [f"{run.name} misses its bounds: {run.trial.bounded}"] * bool(run.trial.bounded)
    return RunComparison(
        names=(a.name, b.name),
        folders=(a.folder, b.folder),
        same_data=same,
        notices=told,
        settings=differing,
        paired=paired,
        findings=_findings(a, b, figures, paired),
        runs=runs,
        facts=_facts(runs),
        figures=figures,
        same_loss=bool(same_loss),
    )


def _facts(runs: Sequence[Run]) -> pd.DataFrame:
    rows = []
    for key, run in zip("ab", runs):
        trial, cost = run.trial, costs(run.trial)
        rows.append(
            {
                "run": key,
                "kind": run.kind,
                "arm": trial.preset or trial.family,
                "family": trial.family,
                "seed": trial.seed,
                "status": trial.status,
                "best_epoch": trial.best.get("epoch"),
                "epochs": trial.epochs,
                HOURS: cost[HOURS],
                MEMORY: cost[MEMORY],
            }
        )
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def _figures(a: Run, b: Run, *, comparable: bool) -> pd.DataFrame:
    """Those of the best epochs that say how good they are; intervals where both were counted on the same crops."""
    first, second = a.trial.objective.figures, b.trial.objective.figures
    own = [f"/{name}" for name in a.classes if len(a.classes) == 1 == len(b.classes)]  # said without the class, too
    told = [k for run in (a, b) for k in run.trial.best if says_how_good(k) and not k.endswith(tuple(own))]
    names = dict.fromkeys([*first, *second, CALIBRATED, *told])
    rows = [(name, a.trial.score(name), b.trial.score(name)) for name in names if name != "violation"]
    widths = _half_widths(a, b) if comparable else {}
    found = [
        {
            "figure": n,
            "a": x,
            "b": y,
            "difference": y - x,
            "low": y - x - widths.get(n, np.nan),
            "high": y - x + widths.get(n, np.nan),
        }
        for n, x, y in rows
        if np.isfinite(x) or np.isfinite(y)
    ]
    return pd.DataFrame(found, columns=["figure", "a", "b", "difference", "low", "high"])


def says_how_good(name: str) -> bool:
    """Whether a figure of a row is one of a network's worth."""
    return name not in PLAIN and not name.startswith(BOOKKEEPING) and name not in ("loss", "stopped", "diagnosis")


def _half_widths(a: Run, b: Run) -> dict[str, float]:
    """Of the interval of a difference over crops, by figure; {} where the crops are not the same or not known."""
    crops = [run.trial.validation(("crops", "classes")) for run in (a, b)]
    counts = [scored_counts(run.trial) for run in (a, b)]
    if counts[0] is None or counts[1] is None or to_plain(crops[0]) != to_plain(crops[1]):
        return {}
    if len(crops[0]["crops"]) < 2:
        return {}
    _, half = difference_over_crops(np.stack(counts[0]), np.stack(counts[1]))
    own = {f"dice/{name}": float(width) for name, width in zip(crops[0]["classes"], half)}
    told = a.trial.config.get("task") or {}
    task = get_task(told.get("name") or TaskSettings().name, told.get("options"))
    return own if task.exclusive else own | {task.metric: float(half[-1])}  # that of one label per sample is no Dice


def _paired(a: Run, b: Run) -> pd.DataFrame:
    """The runs of both arms that have a seed in common, the two themselves among them; none of one arm with itself."""
    names: dict[str, object] = {"arm": a.trial.preset or a.trial.label, "with": b.trial.preset or b.trial.label}
    shared = {"seeds": 0} if _of_one_arm(a, b) else difference(_by_seed(a), _by_seed(b))
    frame = pd.DataFrame([names | shared], columns=list(PAIRED))
    return frame[frame["seeds"] > 0].reset_index(drop=True)


def _of_one_arm(a: Run, b: Run) -> bool:
    """Whether nothing but the seed, or an epoch, tells the two apart."""
    same_sweep = a.sweep is not None and b.sweep is not None and a.sweep.folder == b.sweep.folder
    return same_sweep and a.trial.signature == b.trial.signature != ""


def _by_seed(run: Run) -> dict[int, float]:
    """Seed → score of all sound runs of the arm, the mean where a seed was run twice; of the run where it is alone."""
    trials = [run.trial]
    if run.sweep is not None and run.trial.signature:
        folders = [folder for folder in run.sweep.folder.glob(f"{CONFIRMATIONS}*") if is_sweep(folder)]
        sweeps = [run.sweep, *map(Sweep, folders)]
        trials = [one for sweep in sweeps for one in sweep.trials if one.signature == run.trial.signature]
    scores: dict[int, list[float]] = {}
    for one in trials:
        if one.seed is not None and is_sound(one):
            scores.setdefault(one.seed, []).append(one.score(run.trial.metric))
    return {seed: float(np.mean(values)) for seed, values in scores.items()}


def _findings(a: Run, b: Run, figures: pd.DataFrame, paired: pd.DataFrame) -> list[str]:
    metric, told = a.trial.metric, []
    known = figures[(figures["figure"] == metric) & figures["low"].notna()].to_dict("records")
    for row in known:
        apart = "told apart" if row["low"] > 0 or row["high"] < 0 else "not told apart"
        told.append(
            f"{in_words(metric)}, b − a = {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f} over other "
            f"validation crops, these two networks): {apart}."
        )
    told += [
        pair_told(f"{row['with']} against {row['arm']}: b − a = {row['difference']:+.4f}", row)
        for row in paired.to_dict("records")
    ]
    if _of_one_arm(a, b):
        told.append("Both are runs of one configuration: what differs is the seed, or the epoch.")
    elif paired.empty:
        told.append("No finished runs of the two have a seed in common: nothing is known of the noise of training.")
    return [*told, "Intervals are 95 %, one at a time: of twenty that hold 0, one is expected to miss it."]
