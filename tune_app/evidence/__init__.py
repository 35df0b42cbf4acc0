"""Replicates to a finding: which arm is best, which cannot be told from it, what to run next.

    replicates = Replicates(arms=names, scores=scores, baseline="weight_uniform", ...)
    confirm_statistics(replicates).to_json()                       # a fixed number of replicates

    arms, _ = replicates.merged()                                  # replicates=auto
    design = plan_stages(arms.costs, budget_gpu_hours)             # once, before the first run; written down
    proposal = next_replicates(arms, design)                       # again after every run, until proposal.done
    confirm_statistics(arms, design)

layout      two-way model: arm + seed + noise
critical    thresholds: Student's t, studentised range, and the one that keeps ties
equivalence the arms that cannot be told from the best
stages      replicates=auto and until_decided: what runs next, looks, error spent
intervals   means, differences, P(best)
noise       is one noise for all arms fair? noise borrowed from earlier runs
crops       the second level: validation crops
per_class   every class, Holm's correction
replicates  the input; arms that are one configuration merged
analysis    all of it together; sentences: in words; result: as JSON

No Ray, no files. docs/confirm.md gives the formulas, the assumptions, and what was measured.
"""

from tune_app.evidence.analysis import confirm_statistics
from tune_app.evidence.noise import EarlierNoise
from tune_app.evidence.replicates import Replicates, equal_arms
from tune_app.evidence.result import Confirmation
from tune_app.evidence.stages import Design, Proposal, Rounds, next_replicates, plan_stages

__all__ = [
    "Confirmation",
    "Design",
    "EarlierNoise",
    "Proposal",
    "Replicates",
    "Rounds",
    "confirm_statistics",
    "equal_arms",
    "next_replicates",
    "plan_stages",
]
