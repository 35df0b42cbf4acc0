"""What a confirmation says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tune_app.evidence.crops import CropLevel
from tune_app.evidence.layout import Fit
from tune_app.evidence.replicates import Replicates
from tune_app.evidence.result import BorrowedNoise, Duel, NoiseResult
from tune_app.evidence.stages import Stages

UNEQUAL_NOISE = 0.05
_FEW_CROPS = 4


def statement(names: Sequence[str], winner: int | None, in_set: Sequence[str], measured: bool) -> str:
    """The finding in a sentence."""
    if winner is not None:
        return f"{names[winner]} is the best of {len(names)} arms."
    if len(in_set) == 1:
        return f"No winner: there is nothing to compare {in_set[0]} with."
    if not measured:
        return "No winner: the runs do not tell how noisy they are."
    together = ", ".join(in_set[:-1]) + f" and {in_set[-1]}"
    return f"No winner: {together} cannot be told apart."


def reasons(runs: Replicates, fit: Fit, duel: Duel | None, stages: Stages | None) -> list[str]:
    """Why no winner is named."""
    if int((fit.counts > 0).sum()) < 2:
        return ["There is only one arm with a score: nothing to compare it with."]
    if not fit.connected:
        return [
            "Not all arms share seeds with each other, so their differences cannot be told from those of the seeds."
        ]
    if fit.dof <= 0:
        return ["No arm has a second replicate, so the noise is unknown: any difference may be chance."]
    if not fit.measured or duel is None:
        return ["The scores of an arm do not vary at all between seeds: were the seeds different?"]
    told = [_too_close(duel)]
    if fit.counts[list(runs.arms).index(duel.leader)] < 2:
        told.append(f"{duel.leader} has one replicate only: no arm is named on a single run.")
    if stages is not None and not stages.done:
        told.append("Replicates are still to come.")
    return told


def _too_close(duel: Duel) -> str:
    if not math.isfinite(duel.needed):
        return f"{duel.leader} leads {duel.rival} by {duel.difference:.4f}: after so few rounds no lead is enough."
    text = f"{duel.leader} leads {duel.rival} by {duel.difference:.4f}, and {duel.needed:.4f} would be needed."
    if duel.replicates_needed is None or duel.difference > duel.needed:
        return text
    return (
        f"{text} A true difference of that size would take at least {duel.replicates_needed} paired replicates to show."
    )


def cautions(
    runs: Replicates, fit: Fit, noise: NoiseResult, crops: CropLevel | None, won: Duel | None, own_error: float
) -> list[str]:
    """What weakens the finding. won: the duel, where a winner is named; own_error: the largest p that its two arms may
    have by their own runs without a caution."""
    told = []
    missing = np.asarray(runs.attempted) & ~np.isfinite(runs.scores)
    failed = [f"{name} ({int(n)})" for name, n in zip(runs.arms, missing.sum(-1)) if n]
    if failed:
        told.append(
            f"Runs that failed or were hopeless: {', '.join(failed)}. They are left out as if lost by chance; an arm "
            "that fails is worse than its mean says."
        )
    unscored = [name for name, n in zip(runs.arms, fit.counts) if n == 0]
    if unscored:
        told.append(f"Without any score, so not compared: {', '.join(unscored)}.")
    if not runs.paired:
        told.append("The runs are not paired by seed, so differences between seeds count as noise.")
    if noise.p < UNEQUAL_NOISE:
        told.append(
            f"{noise.noisiest} is about {noise.ratio:.1f} times as noisy as the other arms (p = {noise.p:.2g}): its "
            "interval is too narrow, and ties with it are parted more often than the stated error."
        )
    if won is not None and not won.p_own_noise < own_error:
        p = "unknown" if math.isnan(won.p_own_noise) else f"{won.p_own_noise:.2g}"
        told.append(
            f"The winner rests on one noise for all arms: by their own runs alone, {won.leader} and {won.rival} "
            f"differ with p = {p}, not below {own_error:g}. If they are noisier than the other arms, a tie is parted "
            "more often than stated: with three times the sd, 16 % among five arms, 30 % among twelve."
        )
    return told + _crop_cautions(crops, won)


def about_borrowed(found: BorrowedNoise) -> str:
    """What was borrowed and from where, or why not."""
    where, own = ", ".join(found.where), f"sd {found.own_sd:.4f} with {found.own_dof:g} degrees of freedom"
    there = f"sd {found.sd:.4f} with {found.dof:g} degrees of freedom in {where}"
    if found.accepted:
        return f"The noise of these runs, {own}, is pooled with that of earlier ones, {there}."
    level = found.level_noisier if found.own_sd > found.sd else found.level_quieter
    return f"Noise is not borrowed: these runs have {own}, earlier ones {there}, and an F-test at {level:g} objects."


def _crop_cautions(crops: CropLevel | None, won: Duel | None) -> list[str]:
    if crops is None:
        return []
    told = []
    if won is not None and not crops.holds_on_other_crops:
        told.append(
            f"{won.leader} is the best on these {crops.num_crops} validation crops; that it would be on others is not "
            "shown."
        )
    if crops.effective_crops < _FEW_CROPS:
        told.append(
            f"The validation crops weigh as much as {crops.effective_crops:.1f} equal ones: intervals over crops are "
            "rough."
        )
    if crops.single_crop_classes:
        told.append(
            f"Only one validation crop holds {', '.join(crops.single_crop_classes)}: how those vary between crops is "
            "unknown and not in the intervals."
        )
    return told


def default_choice(runs: Replicates, kept: np.ndarray, means: np.ndarray, winner: int | None) -> tuple[str | None, str]:
    """What to take in the end, and why: the winner; else of the set the baseline, the simplest, the cheapest."""
    names = list(runs.arms)
    if winner is not None:
        return names[winner], "it is the winner"
    members = np.flatnonzero(kept)
    if not len(members):
        return None, "there is nothing to choose from"
    if runs.baseline is not None and kept[names.index(runs.baseline)]:
        return runs.baseline, "nothing tuned was told from it, and it needs no tuning"
    for field, word in (("simplicity", "simplest"), ("costs", "cheapest")):
        values = np.array([runs.number(field, int(a)) for a in members])
        if np.isfinite(values).all() and (values == values.min()).sum() == 1:
            return names[int(members[values.argmin()])], f"the {word} of those that cannot be told apart"
    return names[int(members[np.nanargmax(means[members])])], "the highest mean of those that cannot be told apart"
