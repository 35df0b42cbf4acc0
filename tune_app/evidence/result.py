"""What a confirmation found, as plain dataclasses: the content of confirmation.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tune_app.evidence.crops import CropLevel
from tune_app.evidence.per_class import ClassDifference, ClassMean

FORMAT = 1
"""Raised when a field changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm. Numbers are NaN (null in JSON) where they cannot be known."""

    name: str
    members: list[str]
    """Names that are this same configuration."""
    replicates: int
    failed: int
    """Runs that failed or were hopeless, so without a score."""
    mean: float
    low: float
    high: float
    """95 % interval of the mean over new seeds, on these validation crops."""
    sd: float
    """Standard deviation of its own scores; the intervals use the pooled one."""
    p_best: float
    """P(arm is best) given the scores. Not a test: see docs/confirm.md."""
    in_set: bool
    """Whether it cannot be told from the best."""
    dropped_at: int
    """The look (from 1) at which it was told from the best; 0: none."""
    difference_to_best: float
    difference_to_best_low: float
    difference_to_best_high: float
    """Against the best of the *other* arms: above 0 it leads. Intervals hold for all arms at once."""
    difference_to_baseline: float
    difference_to_baseline_low: float
    difference_to_baseline_high: float
    """Against the untuned arm; the interval is of this difference alone."""
    baseline_p_holm: float
    """p value of that difference, corrected over the arms (Holm)."""
    search_score: float
    winners_curse: float
    """search_score − mean: what choosing the highest of many noisy scores had added."""
    cost: float


@dataclass(frozen=True, kw_only=True)
class NoiseResult:
    """The pooled noise. sd: between runs of one arm, seeds' own effect taken out. seed_sd: of that effect."""

    sd: float
    dof: float
    seed_sd: float
    paired: bool
    noisiest: str | None
    """The arm with the most noise, `ratio` times the sd of the others; p: how often equal noise looks so unequal."""
    ratio: float
    p: float


@dataclass(frozen=True, kw_only=True)
class BorrowedNoise:
    """Noise of earlier confirmations, and whether it was pooled with that of these runs, or an F-test objected."""

    sd: float
    dof: float
    where: list[str]
    """The confirmations that it comes from, SWEEP/CONFIRMATION."""
    own_sd: float
    own_dof: float
    """Of these runs alone."""
    accepted: bool
    level_noisier: float
    level_quieter: float
    """Of the F-tests that refuse it: where these runs are noisier, and where they are less noisy."""


@dataclass(frozen=True, kw_only=True)
class Duel:
    """The leader against the arm that is hardest to tell from it."""

    leader: str
    rival: str
    difference: float
    needed: float
    """A lead above this would have named the leader the winner."""
    p_own_noise: float
    """p value from these two arms alone, without the assumption that all arms have one noise."""
    replicates_needed: int | None
    """How many paired replicates a lead of this size would need; None where there is no lead."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """How far a stage-wise confirmation (replicates=auto) has come. Hours are GPU-hours, counted at planned costs."""

    looks: int
    looks_planned: int
    done: bool
    hours_used: float
    budget_hours: float


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The whole finding. `statement` says it in a sentence."""

    statement: str
    winner: str | None
    leader: str | None
    equivalence_set: list[str]
    """The arms that cannot be told from the best, best mean first. One member exactly where there is a winner."""
    default_choice: str | None
    default_reason: str
    reasons: list[str]
    """Why there is no winner; empty where there is one."""
    cautions: list[str]
    error: float
    """Probability of parting arms that truly tie for the best."""
    baseline: str | None
    arms: list[ArmResult]
    noise: NoiseResult
    duel: Duel | None
    class_reference: str | None
    """What the classes are compared with: the baseline, else the leader."""
    class_means: list[ClassMean]
    class_differences: list[ClassDifference]
    crops: CropLevel | None
    stages: StageResult | None
    borrowed: BorrowedNoise | None = None
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        text = json.dumps(asdict(self), default=lambda scalar: scalar.item())  # NumPy's own numbers
        return dict(json.loads(text, parse_constant=lambda constant: None))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
