"""Is it the loss, or only the threshold? Dice at every threshold, from the logit histograms of a validation pass.

A shift of the logits is a shift of the threshold, so a loss that merely moves the operating point gains at σ(z) > ½ and
loses that gain where every configuration may choose its threshold. Chosen on the crops it is scored on, a threshold
looks too good; here it is chosen on one half of the validation crops and scored on the other, both ways round.

Legend: K validation crops, C classes, B logit bins, T = B − 1 inner bin edges (the thresholds), R splits into halves.
A voxel is predicted where its logit is above the threshold. Counts are exact in float64 up to 2**53 voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from trainables import metrics

ARRAYS = ("hist_positive", "hist_negative", "best_epoch", "classes", "edges")
"""What `calibrate` reads of a validation.npz."""
SPLITS = 32
"""Splits that are averaged. One alone adds noise that is not the configuration's."""
SPLIT_SEED = 20_260
MEASURE = "dice"
"""What thresholds are chosen by."""
AT_HALF, CALIBRATED, GAP = f"mean_{MEASURE}", f"calibrated_mean_{MEASURE}", "threshold_gap"
OTHERS = {"precision": metrics.precision, "recall": metrics.recall, "iou": metrics.iou}
"""What else is scored at the thresholds of the highest Dice."""
MISSING = "validation.npz is missing or damaged"


@dataclass(frozen=True)
class Calibration:
    """Dice of one trial at its best epoch: at a threshold of ½, and at thresholds of its own. Tuples have C entries.

    dice: at ½, all crops. calibrated: cross-fitted, NaN where `reasons` says why. logits: thresholds chosen on all
    crops, NaN likewise. others: {precision, recall, iou: (at ½, calibrated)}. crops: validation crops that show the
    class. problem: why there is nothing at all; else "".
    """

    classes: tuple[str, ...] = ()
    dice: tuple[float, ...] = ()
    calibrated: tuple[float, ...] = ()
    logits: tuple[float, ...] = ()
    others: tuple[Mapping[str, tuple[float, float]], ...] = ()
    reasons: tuple[str, ...] = ()
    crops: tuple[int, ...] = ()
    problem: str = ""

    @property
    def mean(self) -> float:
        """Mean Dice at ½ over the classes that have one."""
        return _mean(self.dice)

    @property
    def calibrated_mean(self) -> float:
        """The mean with calibrated Dice; a class without one counts at ½, so that both means are of the same classes.

        NaN where no class could be calibrated.
        """
        return _mean_of_own(self.dice, self.calibrated)

    @property
    def gap(self) -> float:
        """calibrated_mean − mean: what thresholds alone would bring. It may be negative."""
        return self.calibrated_mean - self.mean

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The thresholds as σ(logit), in (0, 1)."""
        return tuple(map(sigmoid, self.logits))

    @property
    def notes(self) -> str:
        """The reasons in one line, "" where every class is calibrated."""
        return self.problem or "; ".join(f"{name}: {why}" for name, why in zip(self.classes, self.reasons) if why)

    def score(self, key: str) -> float:
        """One of `searched_figures`; NaN where there is none."""
        kind, _, name = key.partition("/")
        halves = {other: tuple(of[other][0] for of in self.others) for other in OTHERS}
        owns = {other: tuple(of[other][1] for of in self.others) for other in OTHERS}
        if not name:
            means = {f"calibrated_mean_{other}": _mean_of_own(halves[other], owns[other]) for other in OTHERS}
            return (means | {CALIBRATED: self.calibrated_mean, GAP: self.gap}).get(key, math.nan)
        per_class = {f"calibrated_{other}": owns[other] for other in OTHERS}
        per_class |= {"calibrated": self.calibrated, "threshold": self.probabilities}
        return dict(zip(self.classes, per_class.get(kind, ()))).get(name, math.nan)


def score_keys(classes: Sequence[str]) -> list[str]:
    """The figures of a leaderboard: Dice at thresholds of a trial's own, and the thresholds."""
    return [CALIBRATED, GAP, *(f"{kind}/{name}" for kind in ("calibrated", "threshold") for name in classes)]


def searched_figures(classes: Sequence[str]) -> list[str]:
    """Everything that `Calibration.score` knows: those of a leaderboard, and what else there is at the thresholds."""
    per_class = [f"calibrated_{other}/{name}" for other in OTHERS for name in classes]
    return [*score_keys(classes), *(f"calibrated_mean_{other}" for other in OTHERS), *per_class]


def calibrate(
    arrays: Mapping[str, np.ndarray], epoch: int | None = None, counted: Mapping[str, float] | None = None
) -> Calibration:
    """The calibration of one trial from its validation.npz.

    epoch: the best epoch of the history; None takes whatever the file is of. counted: {class: Dice at that epoch},
    which the histograms must give back. Where they do not, or the file is cut short, `problem` says so.
    """
    problem = _problem(arrays, epoch)
    if problem:
        return Calibration(problem=problem)
    positive, negative = arrays["hist_positive"].astype(np.float64), arrays["hist_negative"].astype(np.float64)
    edges, classes = arrays["edges"][1:-1], tuple(map(str, arrays["classes"]))
    fits = [_fit_class(positive[:, c], negative[:, c], edges) for c in range(len(classes))]
    columns: dict[str, Any] = {name: tuple(getattr(fit, name) for fit in fits) for name in _ClassFit._fields}
    found = Calibration(classes, **columns)
    if any(_differ(half, (counted or {}).get(name)) for name, half in zip(classes, found.dice)):
        return Calibration(problem="the histograms do not give back the Dice of the history")
    return found


def dice_at_thresholds(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Dice at every inner edge, (…, T) float64, from histograms of positive and negative voxels (…, B).

    NaN for a class with no positive voxel: it has no Dice.
    """
    return metrics.dice(*_counts(positive, negative)).numpy()


def best_threshold(curves: np.ndarray) -> np.ndarray:
    """Index of the highest Dice of each curve (…, T), int64 (…,); the middle one of equals. 0 where all is NaN.

    The middle follows a shift of the logits; the edge next to ½ would not.
    """
    best = curves == np.fmax.reduce(curves, axis=-1, keepdims=True)
    place = best.cumsum(axis=-1)
    middle = (place[..., -1:] + 1) // 2
    return np.argmax(best & (place == middle), axis=-1)


def cross_fitted_dice(positive: np.ndarray, negative: np.ndarray, halves: np.ndarray) -> float:
    """Dice with each half of the crops at the threshold chosen on the other half, averaged over the splits.

    Counts of the two halves are added before Dice is taken, so that equal thresholds of ½ give the Dice at ½ exactly.
    """
    return _averaged(metrics.dice, cross_fitted_counts(positive, negative, halves))


def cross_fitted_counts(positive: np.ndarray, negative: np.ndarray, halves: np.ndarray) -> list[np.ndarray]:
    """tp, fp, fn, each (R,), of all crops: each half at the threshold of the highest Dice on the other half.

    positive, negative: (K, B). halves: (R, K), True for the crops of the first half; each half must show the class.
    """
    return chosen_counts(positive[None], negative[None], halves)


def chosen_counts(positive: np.ndarray, negative: np.ndarray, halves: np.ndarray) -> list[np.ndarray]:
    """`cross_fitted_counts` of the best of n networks: each half has the network *and* the threshold of the highest
    Dice on the other half. positive, negative: (n, K, B)."""
    voxels = np.concatenate([positive, negative], axis=2, dtype=np.float64)
    first = halves.astype(np.float64) @ voxels  # (n, R, 2 B)
    counts = [_counts(*np.split(half, 2, axis=2)) for half in (first, voxels.sum(axis=1)[:, None] - first)]
    rows, chosen = np.arange(len(halves)), []
    for half in counts:
        curves = metrics.dice(*half).numpy()  # (n, R, T)
        network = curves.max(axis=2).argmax(axis=0)
        chosen.append((network, rows, best_threshold(curves[network, rows])))
    return [a[chosen[1]] + b[chosen[0]] for a, b in zip(*counts)]


def _averaged(score: Callable[..., Any], counts: Sequence[np.ndarray]) -> float:
    """A score of every split, averaged."""
    return float(score(*counts).numpy().mean())


def split_halves(shows: np.ndarray, known: np.ndarray, splits: int = SPLITS) -> np.ndarray:
    """Random halves of the crops, (R, K) bool, True for the first one; the same for every trial on these crops.

    shows, known: (K,) bool, whether a crop shows the class, and whether it is annotated there. Crops that show the
    class and crops that do not are halved separately, so that a class in two crops or more is in both halves.
    """
    return _split_halves(shows.tobytes(), known.tobytes(), splits)


@lru_cache(maxsize=1024)
def _split_halves(shows: bytes, known: bytes, splits: int) -> np.ndarray:
    shown, annotated = np.frombuffer(shows, bool), np.frombuffer(known, bool)
    with_class, without = np.flatnonzero(shown), np.flatnonzero(annotated & ~shown)
    generator = np.random.default_rng(SPLIT_SEED)
    halves = np.zeros((splits, len(shown)), bool)
    for half in halves:
        half[generator.permutation(with_class)[: len(with_class) // 2]] = True
        # Where one half has a crop more that shows the class, the other gets the odd one of the rest.
        half[generator.permutation(without)[: (len(without) + len(with_class) % 2) // 2]] = True
    return halves


class _ClassFit(NamedTuple):
    """One entry of each tuple of a `Calibration`."""

    dice: float
    calibrated: float
    logits: float
    others: Mapping[str, tuple[float, float]]
    reasons: str
    crops: int


def _fit_class(positive: np.ndarray, negative: np.ndarray, edges: np.ndarray) -> _ClassFit:
    """The calibration of one class. positive, negative: (K, B). edges: (T,)."""
    shows = positive.sum(axis=1) > 0
    known = shows | (negative.sum(axis=1) > 0)
    counts = _counts(positive.sum(axis=0), negative.sum(axis=0))
    curve, zero, crops = metrics.dice(*counts).numpy(), int(np.flatnonzero(edges == 0)[0]), int(shows.sum())
    half = float(curve[zero])
    at_half = {other: float(score(*(of[zero] for of in counts))) for other, score in OTHERS.items()}
    if crops < 2:
        none = {other: (value, math.nan) for other, value in at_half.items()}
        return _ClassFit(half, math.nan, math.nan, none, _too_few(crops, len(shows)), crops)
    fitted = cross_fitted_counts(positive, negative, split_halves(shows, known))
    others = {other: (at_half[other], _averaged(score, fitted)) for other, score in OTHERS.items()}
    return _ClassFit(half, _averaged(metrics.dice, fitted), float(edges[best_threshold(curve)]), others, "", crops)


def _too_few(crops: int, of: int) -> str:
    if not crops:
        return "no validation crop shows the class"
    there = "there is one validation crop" if of == 1 else "one validation crop shows the class"
    return f"{there}, so a threshold chosen on it cannot be scored on another"


def _counts(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tp, fp, fn at every inner edge, each (…, T), from histograms (…, B)."""
    below, wrong_below = positive.cumsum(axis=-1), negative.cumsum(axis=-1)
    tp, fp = below[..., -1:] - below[..., :-1], wrong_below[..., -1:] - wrong_below[..., :-1]
    return tp, fp, below[..., :-1]


def _problem(arrays: Mapping[str, Any], epoch: int | None) -> str:
    """What keeps these arrays from being calibrated; "" where nothing does."""
    if any(name not in arrays for name in ARRAYS):
        return MISSING
    shape, edges = arrays["hist_positive"].shape, arrays["edges"]
    fits = (
        len(shape) == 3
        and shape == arrays["hist_negative"].shape
        and shape[1:] == (len(arrays["classes"]), len(edges) - 1)
    )
    if not fits or 0 not in edges[1:-1]:
        return MISSING
    found = int(arrays["best_epoch"])
    if epoch is not None and found != epoch:
        return f"validation.npz holds the histograms of epoch {found}, not those of epoch {epoch}"
    return ""


def _differ(found: float, counted: float | None) -> bool:
    if counted is None or (math.isnan(found) and math.isnan(counted)):
        return False
    return not math.isclose(found, counted, rel_tol=0, abs_tol=1e-9)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _mean_of_own(halves: Sequence[float], own: Sequence[float]) -> float:
    """The mean of each class's own value, at ½ where it has none; NaN where no class has one."""
    if not any(map(math.isfinite, own)):
        return math.nan
    return _mean([value if math.isfinite(value) else half for value, half in zip(own, halves)])


def sigmoid(logit: float) -> float:
    """1/(1 + e^−z); NaN for NaN."""
    return 1 / (1 + math.exp(-logit))
