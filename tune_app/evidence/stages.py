"""Which runs come next, and what may be concluded from runs that were chosen by their results.

`replicates=auto` (`Design`):

A stage is a number of paired rounds: fresh seeds, the same for every arm that takes part. All arms take part in the
first. After each stage there is a *look*. A look may part arms for good, with its own small share of the error; the
shares of all looks sum to `error` (Bonferroni over a number of looks that was fixed beforehand), so looking often does
not name winners by chance. Between looks, hours go to the leader and to the arms that a lenient test does not part from
it: where they decide most. An arm that is passed over is not out; it may come back.

`replicates=until_decided` (`Rounds`): one round after the other, and a look after each, until one arm is left. Looks
share no error: the evidence of a pair of arms is an e-process, which ties exceed with probability ≤ `error` in all
looks together (`critical.anytime_critical`). An arm that is told from the leader is not trained further.

Nothing is remembered but the scores: `replay` goes through the stages again from them, so a confirmation that was
interrupted goes on where it was.

Shapes: A arms, S seeds, … any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune_app.errors import InputError
from tune_app.evidence.critical import anytime_critical
from tune_app.evidence.equivalence import leader, remaining
from tune_app.evidence.layout import Fit, fit_paired
from tune_app.evidence.replicates import Replicates

LOOKS = 4
AUTO_ERROR = 0.040
INTERIM_ERROR = 0.003
DROP_SHARE = 0.5
"""Share of a look's error at which the worst arm is told from the leader. An arm that was unlucky in the first rounds
is passed over and stays unlucky while the threshold falls, so at the full share three tied arms or more are parted in
up to 7 %; at half of it in 4 %. Naming a winner is not concerned, so no winner is lost by it."""
LENIENT = 0.07
"""Error at which an arm is passed over for a stage. Larger values find a winner with fewer runs, and leave arms with
estimates that were unlucky: their intervals then cover less than they say."""
ANYTIME_ERROR = 0.05
"""Of a pair of tied arms, over any number of looks; with twelve rounds it spends 2 %."""
FIRST_ROUNDS, FIRST_SHARE = 3, 0.4
"""Rounds of all arms in the first stage: this share of what the budget buys, but three where it buys as many."""
_SLACK = 1e-9
"""Rounding of sums of hours."""


@dataclass(frozen=True)
class Design:
    """A stage-wise confirmation, fixed before its first run.

    costs: GPU-hours of one run of each arm, > 0. budget: GPU-hours for all runs together. first: rounds of the first
    stage. looks: stages at most. error: of all looks together; every look but the last spends `interim`.
    """

    costs: tuple[float, ...]
    budget: float
    first: int = FIRST_ROUNDS
    looks: int = LOOKS
    error: float = AUTO_ERROR
    interim: float = INTERIM_ERROR

    def share(self, stage: int, *, last: bool) -> float:
        """The error that the look after a stage (from 0) may spend: all that is left at the last one."""
        return self.error - stage * self.interim if last else self.interim

    def most_rounds(self) -> int:
        """More rounds than this the budget cannot buy: the first ones, then the two cheapest arms alone."""
        left = self.budget - self.first * sum(self.costs)
        return self.first + max(0, int(left / sum(sorted(self.costs)[:2]) + _SLACK))


@dataclass(frozen=True)
class Rounds:
    """A confirmation that ends when it is decided, fixed before its first run.

    costs: hours of one run of each arm, NaN where unknown. most: rounds at most. error: of all looks together.
    """

    costs: tuple[float, ...]
    most: int
    error: float = ANYTIME_ERROR

    first = 2
    budget = math.inf

    @property
    def looks(self) -> int:
        return self.most - self.first + 1

    def most_rounds(self) -> int:
        return self.most

    def told_apart(self, fit: Fit, kept: np.ndarray) -> np.ndarray:
        """The arms (…, A) that are left of `kept` after a look; at least the leader.

        One that leads every other left by the threshold for `error` is alone. Else an arm goes that lies further below
        the leader than the threshold for error ÷ pairs of arms: so no tie of however many arms is parted more often.
        """
        kept = kept & (fit.counts > 0)
        best = leader(fit, kept)
        is_best, lead = np.arange(kept.shape[-1]) == best[..., None], fit.lead(best)
        unit = np.take_along_axis(fit.unit, best[..., None, None], axis=-2)[..., 0, :]
        pairs = math.comb(kept.shape[-1], 2)
        beyond = {
            error: lead > anytime_critical(fit.dof[..., None], unit, error)
            for error in (self.error, self.error / pairs)
        }
        repeated = np.take_along_axis(fit.counts, best[..., None], axis=-1) >= 2
        beyond = {error: apart & repeated for error, apart in beyond.items()}
        wins = (beyond[self.error] | is_best | ~kept).all(-1)
        return np.where(wins[..., None], kept & is_best, kept & ~beyond[self.error / pairs])


def plan_stages(costs: Sequence[float], budget_gpu_hours: float, *, device: str = "GPU") -> Design:
    """The design for these arms and this budget; device: what the hours are of.

    Raises InputError where it does not buy two rounds of all arms.
    """
    if len(costs) < 2 or min(costs) <= 0:
        raise InputError(f"costs={list(costs)}: two arms at least are needed, and GPU-hours per run above 0. Raise top")
    affordable = int(budget_gpu_hours / sum(costs) + _SLACK)
    if affordable < 2:
        raise InputError(
            f"budget_gpu_hours={budget_gpu_hours}: two runs of each of the {len(costs)} arms take "
            f"{2 * sum(costs):.4g} {device}-hours; one run tells no noise. Raise the budget or lower top"
        )
    first = min(affordable, max(FIRST_ROUNDS, math.ceil(FIRST_SHARE * affordable)))
    return Design(tuple(float(c) for c in costs), float(budget_gpu_hours), first)


@dataclass
class Stages:
    """Where a confirmation stands after going through its stages again.

    planned (…, A, S): runs asked for so far. kept (…, A): arms that no look has parted from the best. dropped_at
    (…, A): the look that parted the arm, 0 for none. rounds (…): seeds used. left (…): GPU-hours not yet asked for.
    waiting (…): planned runs have not been attempted yet, so a look is still to come. done (…): nothing more to run.
    looks (…): looks taken.
    """

    planned: np.ndarray
    kept: np.ndarray
    dropped_at: np.ndarray
    rounds: np.ndarray
    left: np.ndarray
    waiting: np.ndarray
    done: np.ndarray
    looks: np.ndarray

    @classmethod
    def begin(cls, shape: tuple[int, ...], design: Design | Rounds) -> Stages:
        """Before the first run; shape: (…, A, S)."""
        lead = shape[:-2]
        return cls(
            planned=np.broadcast_to(np.arange(shape[-1]) < design.first, shape).copy(),
            kept=np.ones(shape[:-1], bool),
            dropped_at=np.zeros(shape[:-1], int),
            rounds=np.full(lead, design.first),
            left=np.full(lead, design.budget - design.first * sum(design.costs)),
            waiting=np.zeros(lead, bool),
            done=np.zeros(lead, bool),
            looks=np.zeros(lead, int),
        )

    def look(self, fit: Fit, where: np.ndarray, error: float) -> None:
        """Part from the best what can be parted at this error, where (…) says so."""
        self.take(remaining(fit, self.kept, error, drop_error=DROP_SHARE * error), where)

    def take(self, kept: np.ndarray, where: np.ndarray) -> None:
        """A look that leaves the arms `kept` (…, A), where (…) says so."""
        self.looks = np.where(where, self.looks + 1, self.looks)
        kept = np.where(where[..., None], kept, self.kept)
        self.dropped_at = np.where(self.kept & ~kept, self.looks[..., None], self.dropped_at)
        self.kept = kept
        self.done = self.done | (where & (kept.sum(-1) == 1))

    def add(self, takes_part: np.ndarray, more: np.ndarray) -> None:
        """Ask for `more` (…) rounds of the arms that take part (…, A)."""
        seed = np.arange(self.planned.shape[-1])
        new = (seed >= self.rounds[..., None]) & (seed < (self.rounds + more)[..., None])
        self.planned = self.planned | (takes_part[..., :, None] & new[..., None, :])
        self.rounds = self.rounds + more


def replay(scores: np.ndarray, attempted: np.ndarray, design: Design) -> tuple[Stages, Fit]:
    """Go through the stages with these scores (…, A, S), S ≥ `design.most_rounds()`; attempted: bool, same shape.

    A run that was attempted and gave no score (NaN) counts as spent and is not asked for again. The fit is that of all
    planned runs that have a score.
    """
    state = Stages.begin(scores.shape, design)
    for stage in range(design.looks):
        state.waiting = state.waiting | (~state.done & (state.planned & ~attempted).any((-1, -2)))
        active = ~state.done & ~state.waiting
        if not active.any():
            break
        fit = fit_paired(np.where(state.planned, scores, np.nan))
        last = stage == design.looks - 1
        state.look(fit, active, design.share(stage, last=last))
        if last:
            state.done = state.done | active
            break
        takes_part, more = _next_rounds(fit, state, design, stage)
        more = np.where(active & ~state.done, more, 0)
        broke = active & ~state.done & (more == 0)
        state.looks = state.looks - broke  # the same look goes on, with what is left of the error
        state.look(fit, broke, design.share(stage + 1, last=True))
        state.done = state.done | broke
        state.left = state.left - more * (takes_part * np.array(design.costs)).sum(-1)
        state.add(takes_part, more)
    return state, fit_paired(np.where(state.planned, scores, np.nan))


def replay_rounds(scores: np.ndarray, attempted: np.ndarray, design: Rounds) -> tuple[Stages, Fit]:
    """`replay` of rounds that go on until one arm is left."""
    state = Stages.begin(scores.shape, design)
    for _ in range(design.looks):
        state.waiting = state.waiting | (~state.done & (state.planned & ~attempted).any((-1, -2)))
        active = ~state.done & ~state.waiting
        if not active.any():
            break
        state.take(design.told_apart(fit_paired(np.where(state.planned, scores, np.nan)), state.kept), active)
        state.done = state.done | (active & (state.rounds >= design.most))
        state.add(state.kept, np.where(active & ~state.done, 1, 0))
    return state, fit_paired(np.where(state.planned, scores, np.nan))


def replay_one(scores: np.ndarray, attempted: np.ndarray, design: Design | Rounds) -> tuple[Stages, Fit]:
    """`replay` for one confirmation (A, S), however few columns it has yet; columns that the design never asks for are
    left out."""
    missing = max(0, design.most_rounds() - scores.shape[-1])
    scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=np.nan)
    attempted = np.pad(attempted, ((0, 0), (0, missing)))
    return replay_rounds(scores, attempted, design) if isinstance(design, Rounds) else replay(scores, attempted, design)


@dataclass(frozen=True)
class Proposal:
    """The runs to start next: (arm, column) pairs, in whole paired rounds. A column beyond those of the scores is a
    fresh seed, one for all arms. hours: what they cost. done: nothing is left to run; `reason` says why."""

    runs: list[tuple[str, int]]
    hours: float
    done: bool
    reason: str


def next_replicates(runs: Replicates, design: Design | Rounds) -> Proposal:
    """What to run next, given all scores so far; also after an interruption, in the middle of a stage.

    runs: the merged arms that `design` was planned for. To begin, pass scores of NaN: (A, 1).
    """
    state, _ = replay_one(runs.scores, np.asarray(runs.attempted), design)
    columns = state.planned.shape[-1] - runs.scores.shape[-1]
    open_runs = state.planned & ~np.pad(np.asarray(runs.attempted), ((0, 0), (0, max(0, columns))))
    cells = [(runs.arms[a], int(s)) for s, a in np.argwhere(open_runs.T)]
    hours = float((open_runs * np.array(design.costs)[:, None]).sum())
    return Proposal(cells, hours, bool(state.done), _why(state, design))


def _why(state: Stages, design: Design | Rounds) -> str:
    if not state.done and isinstance(design, Rounds):
        return f"round {int(state.rounds)} of at most {design.most}"
    if not state.done:
        return f"stage {int(state.looks) + 1} of at most {design.looks}"
    if state.kept.sum() == 1:
        return "one arm is left"
    if isinstance(design, Rounds):
        return "all rounds are trained"
    return "the budget buys no further paired round" if state.looks < design.looks else "all looks are taken"


def _next_rounds(fit: Fit, state: Stages, design: Design, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """Who takes part in the next stage (…, A), and how many rounds (…) it has; 0 where the hours buy none.

    The leader, the arm closest to it, and every other that would remain at the LENIENT error. A stage gets an equal
    part of the hours left, and one round at least. Where even that is too dear, the closest alone meets the leader.
    """
    costs = np.array(design.costs)
    best = leader(fit, state.kept & (fit.counts > 0))
    is_best = np.arange(len(costs)) == best[..., None]
    lead = np.where(state.kept & ~is_best, np.nan_to_num(fit.lead(best), nan=0.0), np.inf)
    pair = is_best | (np.arange(len(costs)) == lead.argmin(-1)[..., None])
    contends = pair | remaining(fit, state.kept, LENIENT)
    rounds, pair_rounds = (_affordable(state.left, (who * costs).sum(-1)) for who in (contends, pair))
    share = np.maximum(1, np.floor(rounds / (design.looks - 1 - stage)).astype(int))
    alone = rounds == 0
    return np.where(alone[..., None], pair, contends), np.where(alone, np.minimum(pair_rounds, 1), share)


def _affordable(hours: np.ndarray, cost: np.ndarray) -> np.ndarray:
    return np.floor(hours / cost + _SLACK).astype(int)
