"""What went wrong in a trial, by name and with the evidence, from its rows alone.

Trials report figures, this module decides what they mean. It is a pure function of rows and settings, so the driver
that stops a hopeless trial and everyone who reads the sweep later say the same.

    nan               the loss or a weight is not finite                                              ended by the trial
    diverged          the weights have grown far beyond where they began, or all is unlearnt          hopeless
    collapsed         the output is the same everywhere, or far from the true foreground everywhere   hopeless
    uniform_output    of one class: the output is the same everywhere, whatever its level             hopeless
    foreground_collapse    of one class: far more or far less foreground is predicted than labelled
    amp_overflow      float16 gradients keep overflowing: steps are skipped
    dead_class        a class that is there is never predicted
    one_class         one label for each sample, and all predictions are the same one
    late_degradation  the best epoch is long past and far above the present
    plateau           no progress while the learning rate is still high
    smaller_pieces    memory ran out: batches go through the network in pieces
    out_of_memory     the device or the machine had no memory left
    lost_worker       the process or the machine of the trial went away
    error             any other error
"""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.objective import Objective, number
from tune_app.results.tables import in_words
from tune_app.settings.schema import DiagnosisSettings

HOPELESS = ("diverged", "collapsed", "uniform_output")
"""Codes whose trials are stopped."""
ENDED_BY_ERROR = {
    "out_of_memory": re.compile(
        r"OutOfMemoryError|out of memory|running low on memory|can't allocate memory|bad_alloc"
    ),
    "lost_worker": re.compile(
        r"actor (died|is dead)|worker (process )?(has )?died|node (has )?died|is unavailable"
        r"|ActorDiedError|RayActorError|WorkerCrashedError|NodeDiedError|died unexpectedly"
    ),
}
"""What the error of a trial must hold to be called so; the first that fits."""
NOT_BEGUN = "died because of an error raised in its creation task"
"""Ray's words round the error of a trial that could not be set up: no worker is lost, the error itself follows."""

LONGEST_EVIDENCE = 200
"""Characters of an error that are told; error.txt holds all of it."""

TRUTH, SHARE = "fg_true/", "predicted_share/"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """code: what went wrong. epoch: the first at which it was seen. evidence: the figures that say so."""

    code: str
    epoch: int
    evidence: str

    @property
    def hopeless(self) -> bool:
        return self.code in HOPELESS

    def __str__(self) -> str:
        return f"{self.code}: {self.evidence}"


def diagnose(
    rows: Iterable[Row],
    settings: DiagnosisSettings,
    objective: Objective,
    *,
    epochs: int,
    error: str = "",
    error_epoch: int = 0,
) -> list[Diagnosis]:
    """Everything that the rows of a trial say went wrong, each code once, at its first epoch.

    objective: its metric and mode say what progress is. epochs: those of the whole trial. error: the text of its last
    error, "" where there was none; error_epoch: epochs finished before it.
    """
    found: dict[str, Diagnosis] = {}
    course = Course(settings, objective, epochs)
    for row in rows:
        for one in course.take(row):
            found.setdefault(one.code, one)
    if error:
        one = of_error(error, error_epoch)
        found.setdefault(one.code, one)
    return list(found.values())


def hopeless(rows: Iterable[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    """What makes it useless to go on after the last of these rows; None where nothing does."""
    course = Course(settings)
    last: list[Diagnosis] = []
    for row in rows:
        last = course.take(row)
    return next((one for one in last if one.hopeless), None)


def of_error(error: str, epoch: int) -> Diagnosis:
    """The code of a trial's error: out_of_memory, lost_worker, or plain error."""
    lines = [line.strip() for line in error.splitlines() if line.strip() and NOT_BEGUN not in line]
    code = next((code for code, words in ENDED_BY_ERROR.items() if any(map(words.search, lines))), "error")
    told = next((line for line in reversed(lines) if code == "error" or ENDED_BY_ERROR[code].search(line)), code)
    return Diagnosis(code, epoch, textwrap.shorten(told, LONGEST_EVIDENCE, placeholder=" …"))


class Course:
    """A trial as far as its rows have come: what is needed of them to judge the next one.

    objective: its metric and mode say what progress is; None where that does not matter. epochs: those of the whole
    trial; 0 where the end of its schedule does not matter.
    """

    def __init__(self, settings: DiagnosisSettings, objective: Objective | None = None, epochs: int = 0) -> None:
        self._settings, self._objective, self._epochs = settings, objective, epochs
        self._classes: list[str] = []
        self._first_loss: dict[str, float] = {}  # per class, 1 − Tversky: no weight of the loss is in it
        self._lowest_loss: dict[str, float] = {}
        self._highest_lr, self._spread = 0.0, math.nan
        self._scores: list[float] = []  # the objective's figure, larger is better
        self._best: list[float] = []  # of the epochs up to each; NaN before the first score
        self._best_epoch, self._best_figure = 0, math.nan
        self._streaks: Counter[str] = Counter()  # epochs in a row

    def take(self, row: Row) -> list[Diagnosis]:
        """What is wrong at this epoch, the next one of the trial."""
        score = self._objective.score(row) if self._objective else math.nan
        if not self._scores:
            self._classes = [key.removeprefix(TRUTH) for key in row if key.startswith(TRUTH)]
        if self._objective and math.isfinite(score) and not score <= self._best_score:
            self._best_epoch, self._best_figure = row["epoch"], number(row, self._objective.metric)
        self._best.append(score if self._best_epoch == row["epoch"] else self._best_score)
        self._scores.append(score)
        self._highest_lr = max(self._highest_lr, number(row, "lr"))
        checks = (
            self._nan,
            self._diverged,
            self._collapsed,
            self._uniform_output,
            self._foreground_collapse,
            self._amp_overflow,
            self._dead_class,
            self._one_class,
            self._late_degradation,
            self._plateau,
            self._smaller_pieces,
        )
        said = {check.__name__.removeprefix("_"): check(row) for check in checks}
        return [Diagnosis(code, row["epoch"], evidence) for code, evidence in said.items() if evidence]

    @property
    def _best_score(self) -> float:
        return self._best[-1] if self._best else math.nan

    def _streak(self, what: str, *, goes_on: bool) -> int:
        """For how many epochs in a row it has gone on."""
        self._streaks[what] = self._streaks[what] + 1 if goes_on else 0
        return self._streaks[what]

    def _nan(self, row: Row) -> str:
        if row.get("diagnosis") != "nan":
            return ""
        what = "a weight" if math.isfinite(number(row, "loss")) else "the loss"
        return f"{what} is not finite at epoch {row['epoch']}, gradient norm {number(row, 'grad_norm'):.3g}"

    def _diverged(self, row: Row) -> str:
        """Class losses are taken without the weights, which in some families grow with the counts."""
        growth = number(row, "weight_growth")
        losses = {name: number(row, f"loss/{name}") for name in self._classes}
        losses = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
        for name, loss in losses.items():
            self._first_loss.setdefault(name, loss)
            self._lowest_loss[name] = min(loss, self._lowest_loss.get(name, loss))
        fallen = {name: self._first_loss[name] - self._lowest_loss[name] for name in losses}
        most = max(fallen, key=lambda name: fallen[name], default="")
        had_learnt = bool(most) and fallen[most] >= self._settings.diverged_loss
        is_lost = all(loss >= self._first_loss[name] for name, loss in losses.items())
        epochs_lost = self._streak("unlearnt", goes_on=had_learnt and is_lost)
        if growth > self._settings.diverged_growth:
            return f"the norm of the weights is {growth:.3g} times that before training"
        if epochs_lost < 2:
            return ""
        return (
            f"the loss of every class is back where it was in epoch 1, without weights: that of {most} at "
            f"{losses[most]:.3g}, after {self._lowest_loss[most]:.3g}"
        )

    def _collapsed(self, row: Row) -> str:
        """Not of rows that say how much the output varies: a threshold may suit one that is far too rare at ½."""
        if "spread_p" in row:
            return ""
        for name, said in (("uniform", self._uniform(row)), ("off", self._out_of_band(row))):
            epochs = self._streak(name, goes_on=bool(said))
            if epochs >= self._settings.collapsed_epochs:
                return f"{said}, for {epochs} epochs"
        return ""

    def _uniform(self, row: Row) -> str:
        """Evidence that the output of every class is the same everywhere, or nothing."""
        widest = _highest([number(row, f"sigmoid/{name}/sd") for name in self._classes])
        return f"σ(logit) varies by {widest:.2g} at most in any class" if widest < self._settings.collapsed_sd else ""

    def _out_of_band(self, row: Row) -> str:
        """Evidence that every class that is there is predicted far too rarely, or far too often, or nothing."""
        if _at_own_thresholds(row):
            return ""
        ratios = [number(row, f"fg_pred/{name}") / number(row, TRUTH + name) for name in self._present(row)]
        band = self._settings.collapsed_band
        if not ratios or any(math.isnan(ratio) or 1 / band <= ratio <= band for ratio in ratios):
            return ""
        closest = min(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-12))))
        return f"no class has between 1/{band:g} and {band:g} times its foreground, the closest {closest:.2g} times"

    def _present(self, row: Row) -> list[str]:
        """Classes with positive voxels in validation."""
        return [name for name in self._classes if number(row, TRUTH + name) > 0]

    def _uniform_output(self, row: Row) -> str:
        """Var(p) against p̄(1 − p̄), the most that it can be: of a rare class p is small, and not uniform for that.

        Not while it doubles from epoch to epoch: so it begins where batch statistics have not been averaged for long.
        """
        spread, before = number(row, "spread_p"), self._spread
        self._spread = spread
        epochs = self._streak("same_p", goes_on=spread < self._settings.uniform_spread and not spread > 2 * before)
        if epochs < self._settings.collapsed_epochs:
            return ""
        mean, deviation = number(row, "mean_p"), math.sqrt(number(row, "var_p"))
        return f"the output is {mean:.3g} ± {deviation:.1g} everywhere, for {epochs} epochs"

    def _foreground_collapse(self, row: Row) -> str:
        """By odds, so that 95.7 % is as far from 60.9 % as 11 % is from 1 %."""
        predicted, true = number(row, "fg_pred"), number(row, "fg_true")
        odds = [share / (1 - share) if share < 1 else math.inf for share in (predicted, true)]
        band = self._settings.foreground_odds
        judged = 0 < true < 1 and not _at_own_thresholds(row)
        goes_on = judged and not math.isnan(predicted) and not odds[1] / band <= odds[0] <= odds[1] * band
        epochs = self._streak("foreground", goes_on=goes_on)
        if epochs < self._settings.collapsed_epochs:
            return ""
        return f"predicts {predicted:.1%} foreground, labels {true:.1%}, for {epochs} epochs"

    def _amp_overflow(self, row: Row) -> str:
        """The first epoch is left out: there the scale is still being found."""
        scale, share = number(row, "grad_scale"), number(row, "skipped_share")
        goes_on = len(self._scores) > 1 and scale > 0 and share > self._settings.overflow_share
        if self._streak("skipping", goes_on=goes_on) < 2:
            return ""
        return f"{share:.0%} of the steps had no finite gradient, loss scale {scale:g}"

    def _dead_class(self, row: Row) -> str:
        there, needed = [] if _at_own_thresholds(row) else self._present(row), self._settings.dead_epochs
        dead = [name for name in there if self._streak(name, goes_on=number(row, f"fg_pred/{name}") == 0) >= needed]
        return f"{', '.join(dead)}: no voxel predicted for {needed} epochs, though there" if dead else ""

    def _one_class(self, row: Row) -> str:
        """Of tasks whose rows say which share of the predictions each class has. It may pass, when an encoder is
        unfrozen, so no trial is stopped for it."""
        shares = {key.removeprefix(SHARE): number(row, key) for key in row if key.startswith(SHARE)}
        alone = next((name for name, share in shares.items() if share == 1), "")
        there = [name for name in shares if number(row, f"support/{name}") > 0]
        for name in shares:  # a collapse that moves to another class begins anew
            goes_on = name == alone and len(there) > 1
            epochs = self._streak(f"only {name}", goes_on=goes_on)
            if goes_on and epochs >= self._settings.collapsed_epochs:
                return f"all predictions are {name}, for {epochs} epochs, though {len(there)} classes are there"
        return ""

    def _late_degradation(self, row: Row) -> str:
        span = self._settings.degraded_epochs
        if not self._best_epoch or row["epoch"] - self._best_epoch < span:
            return ""
        lost = self._best_score - _highest(self._scores[-span:])
        if not lost >= self._settings.degraded_dice:
            return ""
        assert self._objective is not None
        side = "above" if self._objective.mode == "max" else "below"
        return (
            f"{in_words(self._objective.metric)} {number(row, self._objective.metric):.4f}, and "
            f"{self._best_figure:.4f} at epoch {self._best_epoch}; {lost:.4f} {side} the last {span} epochs"
        )

    def _plateau(self, row: Row) -> str:
        """Not at the end of a trial, where the learning rate has fallen and nothing more is to be expected."""
        span, lr = self._settings.plateau_epochs, number(row, "lr")
        if len(self._scores) <= span or row["epoch"] >= self._epochs or not lr > 0.1 * self._highest_lr:
            return ""
        gained = _highest(self._scores[-span:]) - self._best[-span - 1]
        if not -self._settings.degraded_dice < gained < self._settings.plateau_dice:
            return ""
        assert self._objective is not None
        won = f"{in_words(self._objective.metric)} has {'gained' if self._objective.mode == 'max' else 'fallen by'}"
        return f"{won} {gained:.4f} in {span} epochs, at a learning rate of {lr:.2g}"

    def _smaller_pieces(self, row: Row) -> str:
        pieces = row.get("pieces")
        return f"memory ran out: since then a batch goes through the network in {pieces} passes" if pieces else ""


def _at_own_thresholds(row: Row) -> bool:
    """Whether the objective reads figures at searched thresholds: then fg_pred, at ½, says little."""
    return any(name.startswith("best_calibrated") for name in row)


def _highest(values: Sequence[float]) -> float:
    """The largest that is a number; NaN without one."""
    return max((value for value in values if math.isfinite(value)), default=math.nan)
