"""What went wrong in a trial, by name and with the evidence, from its rows alone.

Trials report figures, this module decides what they mean. It is a pure function of rows and settings, so the driver
that stops a hopeless trial and everyone who reads the sweep later say the same.

    nan               the loss or a weight is no number                                               ended by the trial
    diverged          the weights, or the loss, have grown far beyond where they began                hopeless
    collapsed         the output is the same everywhere, or far from the true foreground everywhere   hopeless
    amp_overflow      float16 gradients keep overflowing: steps are skipped
    dead_class        a class that is there is never predicted
    late_degradation  the best epoch is long past and far above the present
    plateau           no progress while the learning rate is still high
    out_of_memory     the device or the machine had no memory left
    lost_worker       the process or the machine of the trial went away
    error             any other error
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_app.config import DiagnosisSettings

HOPELESS = ("diverged", "collapsed")
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

LONGEST_EVIDENCE = 200
"""Characters of an error that are told; error.txt holds all of it."""

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
    rows: Sequence[Row], settings: DiagnosisSettings, *, epochs: int, error: str = "", error_epoch: int = 0
) -> list[Diagnosis]:
    """Everything that the rows of a trial say went wrong, each code once, at its first epoch.

    epochs: those of the whole trial. error: the text of its last error, "" where there was none; error_epoch: epochs
    finished before it.
    """
    found: dict[str, Diagnosis] = {}
    for count in range(1, len(rows) + 1):
        for one in _at_last(rows[:count], settings, epochs):
            found.setdefault(one.code, one)
    if error:
        one = of_error(error, error_epoch)
        found.setdefault(one.code, one)
    return list(found.values())


def hopeless(rows: Sequence[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    """What makes it useless to go on after the last of these rows; None where nothing does."""
    if not rows:
        return None
    checks = (_diverged(rows, settings), _collapsed(rows, settings))
    return next((one for one in checks if one), None)


def of_error(error: str, epoch: int) -> Diagnosis:
    """The code of a trial's error: out_of_memory, lost_worker, or plain error."""
    code = next((code for code, words in ENDED_BY_ERROR.items() if words.search(error)), "error")
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if code == "error" or ENDED_BY_ERROR[code].search(line)), code)
    return Diagnosis(code, epoch, textwrap.shorten(told, LONGEST_EVIDENCE, placeholder=" …"))


def _at_last(rows: Sequence[Row], settings: DiagnosisSettings, epochs: int) -> Iterator[Diagnosis]:
    """What is wrong at the last of these rows."""
    checks = (
        _nan(rows), _diverged(rows, settings), _collapsed(rows, settings), _amp_overflow(rows, settings),
        _dead_class(rows, settings), _late_degradation(rows, settings), _plateau(rows, settings, epochs),
    )  # fmt: skip
    yield from (one for one in checks if one)


def _nan(rows: Sequence[Row]) -> Diagnosis | None:
    row = rows[-1]
    if row.get("diagnosis") != "nan":
        return None
    what = "a weight" if math.isfinite(_number(row, "loss")) else "the loss"
    norm = f"{_number(row, 'grad_norm'):.3g}"
    return Diagnosis("nan", row["epoch"], f"{what} is no number at epoch {row['epoch']}, gradient norm {norm}")


def _diverged(rows: Sequence[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    row = rows[-1]
    growth, epoch = _number(row, "weight_growth"), row["epoch"]
    if growth > settings.diverged_growth:
        return Diagnosis("diverged", epoch, f"the norm of the weights is {growth:.3g} times that before training")
    first, last = _number(rows[0], "loss"), _last(rows, "loss", 2)
    if len(last) == 2 and min(last) > settings.diverged_loss * first > 0:
        return Diagnosis(
            "diverged",
            epoch,
            f"the training loss is {last[-1]:.4g}, {last[-1] / first:.3g} times that of epoch 1",
        )
    return None


def _collapsed(rows: Sequence[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    recent = rows[-settings.collapsed_epochs :]
    if len(recent) < settings.collapsed_epochs:
        return None
    for judge in (_uniform, _out_of_band):
        said = [judge(row, settings) for row in recent]
        if all(said):
            return Diagnosis("collapsed", rows[-1]["epoch"], f"{said[-1]}, for {len(recent)} epochs")
    return None


def _uniform(row: Row, settings: DiagnosisSettings) -> str:
    """ "" unless the output of every class is the same everywhere."""
    deviations = [_number(row, key) for key in row if key.startswith("sigmoid/") and key.endswith("/sd")]
    if not deviations or not max(deviations) < settings.collapsed_sd:
        return ""
    return f"σ(logit) varies by {max(deviations):.2g} at most in any class"


def _out_of_band(row: Row, settings: DiagnosisSettings) -> str:
    """ "" unless every class that is there is predicted far too rarely, or far too often."""
    ratios = []
    for name in present(row):
        predicted, true = _number(row, f"fg_pred/{name}"), _number(row, f"fg_true/{name}")
        ratios.append(predicted / true)
    band = settings.collapsed_band
    if not ratios or any(1 / band <= ratio <= band for ratio in ratios) or any(map(math.isnan, ratios)):
        return ""
    closest = min(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-12))))
    return f"no class has between 1/{band:g} and {band:g} times its foreground, the closest {closest:.2g} times"


def _amp_overflow(rows: Sequence[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    """The first epoch is left out: there the scale is still being found."""
    recent = rows[1:][-2:]
    shares = [_number(row, "skipped_share") for row in recent if _number(row, "grad_scale") > 0]
    if len(shares) < 2 or not min(shares) > settings.overflow_share:
        return None
    scale = _number(rows[-1], "grad_scale")
    return Diagnosis(
        "amp_overflow", rows[-1]["epoch"], f"{shares[-1]:.0%} of the steps had no finite gradient, loss scale {scale:g}"
    )


def _dead_class(rows: Sequence[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    recent = rows[-settings.dead_epochs :]
    if len(recent) < settings.dead_epochs:
        return None
    dead = [name for name in present(rows[-1]) if all(_number(row, f"fg_pred/{name}") == 0 for row in recent)]
    if not dead:
        return None
    return Diagnosis(
        "dead_class", rows[-1]["epoch"], f"{', '.join(dead)}: no voxel predicted for {len(recent)} epochs, though there"
    )


def _late_degradation(rows: Sequence[Row], settings: DiagnosisSettings) -> Diagnosis | None:
    row, best = rows[-1], best_row(rows)
    if best is None or row["epoch"] - best["epoch"] < settings.degraded_epochs:
        return None
    lost = _number(best, "mean_dice") - max(_last(rows, "mean_dice", settings.degraded_epochs))
    if not lost >= settings.degraded_dice:
        return None
    return Diagnosis(
        "late_degradation", row["epoch"],
        f"mean Dice {_number(row, 'mean_dice'):.4f}, and {_number(best, 'mean_dice'):.4f} at epoch {best['epoch']}; "
        f"{lost:.4f} above the last {settings.degraded_epochs} epochs",
    )  # fmt: skip


def _plateau(rows: Sequence[Row], settings: DiagnosisSettings, epochs: int) -> Diagnosis | None:
    """Not at the end of a trial, where the learning rate has fallen and nothing more is to be expected."""
    span = settings.plateau_epochs
    highest = max(_number(row, "lr") for row in rows)
    if len(rows) <= span or rows[-1]["epoch"] >= epochs or not _number(rows[-1], "lr") > 0.1 * highest:
        return None
    before, recent = best_row(rows[:-span]), best_row(rows[-span:])
    if before is None or recent is None:
        return None
    gained = _number(recent, "mean_dice") - _number(before, "mean_dice")
    if not -settings.degraded_dice < gained < settings.plateau_dice:
        return None
    return Diagnosis(
        "plateau", rows[-1]["epoch"],
        f"mean Dice has gained {gained:.4f} in {span} epochs, at a learning rate of {_number(rows[-1], 'lr'):.2g}",
    )  # fmt: skip


def best_row(rows: Sequence[Row]) -> Row | None:
    """The row with the highest mean Dice, the first of equals; None without any."""
    scored = [row for row in rows if math.isfinite(_number(row, "mean_dice"))]
    return max(scored, key=lambda row: row["mean_dice"], default=None)


def present(row: Row) -> list[str]:
    """Classes with positive voxels in validation."""
    return [key[8:] for key in row if key.startswith("fg_true/") and _number(row, key) > 0]


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def _last(rows: Sequence[Row], key: str, count: int) -> list[float]:
    return [_number(row, key) for row in rows[-count:]]
