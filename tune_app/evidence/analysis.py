"""From replicates to a finding: who is best, who cannot be told from the best, and how sure that is.

Shapes: A arms, S seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tune_app.errors import InputError
from tune_app.evidence import sentences
from tune_app.evidence.critical import anytime_critical, t_critical, t_probability
from tune_app.evidence.crops import CropLevel, crop_level
from tune_app.evidence.equivalence import ERROR, leader, remaining
from tune_app.evidence.intervals import (
    AUTO_INTERVAL_ERROR,
    INTERVAL_ERROR,
    best_difference_interval,
    difference_interval,
    mean_interval,
    probability_best,
)
from tune_app.evidence.layout import Fit, fit_paired, fit_unpaired
from tune_app.evidence.noise import (
    AUTO_OWN_ERROR,
    NOISIER,
    OWN_ERROR,
    QUIETER,
    noisiest,
    own_deviations,
    own_pair_probability,
    pooled,
)
from tune_app.evidence.per_class import compare_classes, holm
from tune_app.evidence.replicates import Replicates
from tune_app.evidence.result import ArmResult, BorrowedNoise, Confirmation, Duel, NoiseResult, StageResult
from tune_app.evidence.stages import Design, Rounds, Stages, replay_one


@dataclass(frozen=True)
class Analysis:
    """The fit and the decision, before they have a form. Arrays are (A,); classes are compared with `reference`."""

    runs: Replicates
    members: list[list[str]]
    fit: Fit
    kept: np.ndarray
    stages: Stages | None
    design: Design | Rounds | None
    borrowed: BorrowedNoise | None = None

    @property
    def leader(self) -> int:
        return int(leader(self.fit, self.kept & (self.fit.counts > 0)))

    @property
    def baseline(self) -> int | None:
        return None if self.runs.baseline is None else list(self.runs.arms).index(self.runs.baseline)

    @property
    def reference(self) -> int:
        return self.leader if self.baseline is None else self.baseline

    @property
    def error(self) -> float:
        return ERROR if self.design is None else self.design.error

    @property
    def interval_error(self) -> float:
        return INTERVAL_ERROR if self.design is None else AUTO_INTERVAL_ERROR

    @property
    def own_error(self) -> float:
        return OWN_ERROR if self.design is None else AUTO_OWN_ERROR

    @property
    def winner(self) -> int | None:
        """The only arm that is left of several; None where more are left, or where no noise was measured."""
        compared = int((self.fit.counts > 0).sum())
        decided = self.kept.sum() == 1 and bool(self.fit.measured) and compared > 1
        return self.leader if decided else None


def confirm_statistics(runs: Replicates, design: Design | Rounds | None = None) -> Confirmation:
    """The finding from these replicates; design: the one by which runs were chosen by `next_replicates`.

    A design is for the merged arms (`runs.merged()`). Raises InputError where it does not fit the arms, or where no run
    has a score.
    """
    found = _analyse(runs, design)
    classes, differences = _classes(found)
    winner = found.winner
    names = list(found.runs.arms)
    chosen, reason = sentences.default_choice(found.runs, found.kept, found.fit.means, winner)
    noise, duel, crops = _noise(found), _duel(found), _crops(found)
    order = np.argsort(-np.where(found.kept, found.fit.means, -np.inf), kind="stable")[: int(found.kept.sum())]
    in_set = [names[i] for i in order]
    return Confirmation(
        statement=sentences.statement(names, winner, in_set, bool(found.fit.measured)),
        winner=None if winner is None else names[winner],
        leader=names[found.leader],
        equivalence_set=in_set,
        default_choice=chosen,
        default_reason=reason,
        reasons=[] if winner is not None else sentences.reasons(found.runs, found.fit, duel, found.stages),
        cautions=[
            *([sentences.about_borrowed(found.borrowed)] if found.borrowed else []),
            *sentences.cautions(found.runs, found.fit, noise, crops, None if winner is None else duel, found.own_error),
        ],
        error=found.error,
        baseline=found.runs.baseline,
        arms=_arm_results(found),
        noise=noise,
        duel=duel,
        class_reference=names[found.reference] if classes else None,
        class_means=classes,
        class_differences=differences,
        crops=crops,
        stages=_stage_result(found),
        borrowed=found.borrowed,
    )


def _analyse(runs: Replicates, design: Design | Rounds | None) -> Analysis:
    merged, members = runs.merged()
    if not np.isfinite(merged.scores).any():
        raise InputError("scores are all missing: one run at least must have one. See why the runs failed")
    if design is not None:
        if not merged.paired:
            raise InputError("stages need seeds that all arms share: paired=True, or no design")
        if len(design.costs) != (number := len(merged.arms)):
            raise InputError(f"the design has {len(design.costs)} arms, these replicates {number} different ones")
        stages, fit = replay_one(merged.scores, np.asarray(merged.attempted), design)
        return Analysis(merged, members, fit, stages.kept & (fit.counts > 0), stages, design)
    fit, borrowed = (fit_paired if merged.paired else fit_unpaired)(merged.scores), None
    if earlier := merged.earlier:
        own, (fit, accepted) = fit, pooled(fit, earlier.sd**2, earlier.dof)
        borrowed = BorrowedNoise(
            sd=earlier.sd,
            dof=earlier.dof,
            where=list(earlier.where),
            own_sd=float(np.sqrt(own.variance)),
            own_dof=float(own.dof),
            accepted=bool(accepted),
            level_noisier=NOISIER,
            level_quieter=QUIETER,
        )
    return Analysis(merged, members, fit, remaining(fit, fit.counts > 0, ERROR), None, None, borrowed)


def _arm_results(found: Analysis) -> list[ArmResult]:
    runs, fit, error = found.runs, found.fit, found.interval_error
    low, high = mean_interval(fit, error)
    best, best_low, best_high = best_difference_interval(fit, found.kept, error)
    base, base_low, base_high, base_p = _against_baseline(found)
    deviations, p_best = own_deviations(runs.scores), probability_best(fit)
    failed = (np.asarray(runs.attempted) & ~np.isfinite(runs.scores)).sum(-1)
    dropped = np.zeros(len(runs.arms), int) if found.stages is None else found.stages.dropped_at
    return [
        ArmResult(
            name=name,
            members=found.members[a],
            replicates=int(fit.counts[a]),
            failed=int(failed[a]),
            mean=float(fit.means[a]),
            low=float(low[a]),
            high=float(high[a]),
            sd=float(deviations[a]),
            p_best=float(p_best[a]),
            in_set=bool(found.kept[a]),
            dropped_at=int(dropped[a]),
            difference_to_best=float(best[a]),
            difference_to_best_low=float(best_low[a]),
            difference_to_best_high=float(best_high[a]),
            difference_to_baseline=float(base[a]),
            difference_to_baseline_low=float(base_low[a]),
            difference_to_baseline_high=float(base_high[a]),
            baseline_p_holm=float(base_p[a]),
            search_score=runs.number("search_scores", a),
            winners_curse=runs.number("search_scores", a) - float(fit.means[a]),
            cost=runs.number("costs", a),
        )
        for a, name in enumerate(runs.arms)
    ]


def _against_baseline(found: Analysis) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difference, low, high, and Holm's p to the baseline, (A,) each; NaN for itself and without one."""
    fit, nothing = found.fit, np.full(len(found.runs.arms), math.nan)
    if found.baseline is None:
        return nothing, nothing, nothing, nothing
    base = np.asarray(found.baseline)
    low, high = difference_interval(fit, base, found.interval_error)
    itself = np.arange(len(nothing)) == found.baseline
    difference, low, high = (np.where(itself, math.nan, x) for x in (fit.means - fit.means[base], low, high))
    return difference, low, high, holm(t_probability(fit.lead(base), fit.dof))


def _classes(found: Analysis):  # type: ignore[no-untyped-def]
    if found.runs.class_scores is None:
        return [], []
    return compare_classes(
        found.runs.class_scores,
        found.runs.arms,
        found.runs.classes,
        found.reference,
        chosen_before=found.baseline is not None,
        paired=found.runs.paired,
        error=found.interval_error,
    )


def _crops(found: Analysis) -> CropLevel | None:
    if found.runs.counts is None:
        return None
    return crop_level(
        *found.runs.counts,
        arms=found.runs.arms,
        classes=found.runs.classes,
        reference=found.reference,
        leader=found.leader,
        paired=found.runs.paired,
        interval_error=found.interval_error,
        error=found.error,
    )


def _noise(found: Analysis) -> NoiseResult:
    scored = np.flatnonzero(found.fit.counts > 0)
    arm, ratio, p = noisiest(found.runs.scores[scored], paired=found.runs.paired)
    return NoiseResult(
        sd=float(np.sqrt(found.fit.variance)),
        dof=float(found.fit.dof),
        seed_sd=float(np.sqrt(found.fit.seed_variance)),
        paired=found.runs.paired,
        noisiest=None if math.isnan(p) else found.runs.arms[int(scored[arm])],
        ratio=ratio,
        p=p,
    )


def _duel(found: Analysis) -> Duel | None:
    """None where there is nothing to compare, or no noise to compare with."""
    fit, first = found.fit, found.leader
    rivals = (fit.counts > 0) & (np.arange(len(fit.counts)) != first)
    if not rivals.any() or not fit.measured:
        return None
    lead = np.where(rivals, fit.lead(np.asarray(first)), np.inf)
    rival = int(lead.argmin())
    difference = float(fit.means[first] - fit.means[rival])
    if isinstance(found.design, Rounds):
        critical = anytime_critical(fit.dof, fit.unit[first, rival], found.error)
    else:
        error = found.error if found.design is None else found.design.share(found.design.looks - 1, last=True)
        critical = t_critical(fit.dof, error)
    needed = float(critical * fit.standard_error(np.asarray(first))[rival])
    pairs = 1 / (1 / fit.counts[first] + 1 / fit.counts[rival]) * 2
    return Duel(
        leader=found.runs.arms[first],
        rival=found.runs.arms[rival],
        difference=difference,
        needed=needed,
        p_own_noise=own_pair_probability(found.runs.scores, first, rival, paired=found.runs.paired),
        replicates_needed=math.ceil(pairs * (needed / difference) ** 2) if difference > needed / 100 else None,
    )


def _stage_result(found: Analysis) -> StageResult | None:
    if found.stages is None or found.design is None:
        return None
    used = float((found.stages.planned * np.array(found.design.costs)[:, None]).sum())
    return StageResult(
        looks=int(found.stages.looks),
        looks_planned=found.design.looks,
        done=bool(found.stages.done),
        hours_used=used,
        budget_hours=found.design.budget,
    )
