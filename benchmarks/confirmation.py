"""How often a confirmation errs, counted on simulated arms: python -m benchmarks.confirmation.

What is true is known here, so error rates can be counted. The tables printed are those in docs/confirm.md: 5, 8 and 12
arms; 2, 3 and 5 replicates, and `replicates=auto` with the runs of 8; noise that is equal, and three times as large for
the two arms that tie. Then, for 2 to 12 replicates, `noise=borrowed`, `replicates=until_decided`, and `score=last3` on
recorded curves. About 5 minutes on one core; the figures are the same each time.

Shapes: R repetitions, A arms, S seeds, E epochs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.harness import Result, main, table
from benchmarks.learning_curves import phantom
from tune_app.confirmation.arms import LAST
from tune_app.evidence.equivalence import leader, remaining
from tune_app.evidence.intervals import AUTO_INTERVAL_ERROR, INTERVAL_ERROR, difference_interval, mean_interval
from tune_app.evidence.layout import Fit, fit_paired
from tune_app.evidence.noise import AUTO_OWN_ERROR, OWN_ERROR, own_pair_probability, pooled
from tune_app.evidence.stages import Rounds, plan_stages, replay, replay_rounds

SD = 0.0127
"""Seed to seed noise of mean Dice in the published five runs of one configuration."""
ARMS = (5, 8, 12)
REPLICATES = (2, 3, 5)
AUTO_ROUNDS = 8
FAR = 0.05
"""How much worse the arms are that do not tie."""
SEED_EFFECTS = (0.0, 1.5, 3.0)
"""Standard deviation of the seeds' own effect, in units of SD."""
NOISY = 3.0
FEW_TO_MANY = (2, 3, 5, 8, 12)
CURVES = Path(__file__).parent / "curves" / "phantom.json.gz"
EARLIER_DOF = 16
"""Of a confirmation of five arms and five replicates, whose noise is borrowed."""
UNLIKE = (1.4, 1.7, 3.0)
"""How much noisier these runs are than the earlier ones, where the assumption fails."""
POOL = 25
"""Recorded configurations, the best ones, whose noise is drawn from: those that a confirmation would train."""


@dataclass(frozen=True)
class Outcome:
    """Rates over the repetitions. named: any winner; right: the truly best. keeps_all: no truly best arm was lost.

    uncautioned: a winner was named, and not marked as resting on one noise for all arms; NaN where not asked for.
    """

    named: float
    right: float
    keeps_best: float
    keeps_all: float
    mean_coverage: float
    difference_coverage: float
    runs: float
    uncautioned: float


def tied(number: int, arms: int, gap: float = FAR) -> tuple[float, ...]:
    """Means (A,): `number` of them 0, the others `gap` worse."""
    return (0.0,) * number + (-gap,) * (arms - number)


def scores(
    means: Sequence[float], seeds: int, repetitions: int, seed_effect: float, seed: int, noise: Sequence[float] = (1,)
) -> np.ndarray:
    """(R, A, S): means + seed effect + noise; noise: its sd in units of SD, of each arm or of all."""
    random = np.random.default_rng([seed, round(10 * seed_effect)])
    drawn = random.normal(0, SD, (repetitions, len(means), seeds)) * np.array(noise)[:, None]
    return np.array(means)[:, None] + drawn + seed_effect * random.normal(0, SD, (repetitions, 1, seeds))


def fixed(
    means: Sequence[float],
    *,
    repetitions: int,
    seed_effect: float = 0.0,
    replicates: int = 5,
    seed: int = 1,
    noise: Sequence[float] = (1,),
    cautions: bool = False,
) -> Outcome:
    """Every arm with the same number of replicates."""
    drawn = scores(means, replicates, repetitions, seed_effect, seed, noise)
    fit = fit_paired(drawn)
    kept = remaining(fit, np.ones(fit.means.shape, bool))
    runs = np.full(repetitions, replicates * len(means))
    return outcome(means, fit, kept, runs, INTERVAL_ERROR, drawn if cautions else None, OWN_ERROR)


def auto(
    means: Sequence[float],
    *,
    repetitions: int,
    budget: float,
    seed_effect: float = 0.0,
    seed: int = 2,
    noise: Sequence[float] = (1,),
    cautions: bool = False,
) -> Outcome:
    """replicates=auto with as many runs as the budget buys at one GPU-hour each."""
    design = plan_stages([1.0] * len(means), budget)
    drawn = scores(means, design.most_rounds(), repetitions, seed_effect, seed, noise)
    stages, fit = replay(drawn, np.ones(drawn.shape, bool), design)
    assert stages.done.all()
    runs = stages.planned.sum((1, 2))
    assert (runs <= budget).all()
    trained = np.where(stages.planned, drawn, np.nan) if cautions else None
    return outcome(means, fit, stages.kept, runs, AUTO_INTERVAL_ERROR, trained, AUTO_OWN_ERROR)


def outcome(
    means: Sequence[float],
    fit: Fit,
    kept: np.ndarray,
    runs: np.ndarray,
    error: float,
    trained: np.ndarray | None,
    own_error: float,
) -> Outcome:
    """trained: the scores (R, A, S), NaN where there was no run, if winners' cautions are to be counted."""
    true = np.array(means, float)
    best = true == true.max()
    named = kept.sum(1) == 1
    low, high = mean_interval(fit, error)
    last = np.full(len(kept), len(true) - 1)
    from_last, to_last = difference_interval(fit, last, error)
    difference = true - true[-1]
    return Outcome(
        named=named.mean(),
        right=(named & kept[:, best].any(1) & (best.sum() == 1)).mean(),
        keeps_best=kept[:, best].any(1).mean(),
        keeps_all=kept[:, best].all(1).mean(),
        mean_coverage=((low <= true) & (true <= high)).mean(),
        difference_coverage=((from_last <= difference) & (difference <= to_last))[:, :-1].mean(),
        runs=runs.mean(),
        uncautioned=np.nan
        if trained is None
        else float((named & sure_by_own_noise(fit, kept, trained, own_error)).mean()),
    )


def sure_by_own_noise(fit: Fit, kept: np.ndarray, trained: np.ndarray, own_error: float) -> np.ndarray:
    """Whether the winner, where there is one, is told from its rival by the runs of these two alone, (R,) bool."""
    winner = leader(fit, kept)
    rival = np.nan_to_num(fit.lead(winner), nan=np.inf).argmin(1)
    return np.array(
        [
            lone and own_pair_probability(runs, a, b, paired=True) < own_error
            for lone, runs, a, b in zip(kept.sum(1) == 1, trained, winner, rival)
        ]
    )


class Row(NamedTuple):
    """Figures of one number of arms and replicates, as shares."""

    arms: int
    replicates: str
    false_winner: float
    keeps_all: float
    """Of 2, 3, 4 and all arms tied, the least."""
    mean_coverage: float
    """Of the seed effects, the least."""
    false_winner_noisy: float
    uncautioned_noisy: float


def measure(arms: int, replicates: int | None, repetitions: int) -> Row:
    """replicates: None for `replicates=auto`."""

    def run(means: Sequence[float], **scene: object) -> Outcome:
        if replicates is None:
            return auto(means, repetitions=repetitions, budget=AUTO_ROUNDS * arms, **scene)  # type: ignore[arg-type]
        return fixed(means, repetitions=repetitions, replicates=replicates, **scene)  # type: ignore[arg-type]

    ties = [run(tied(number, arms)) for number in sorted({2, 3, 4, arms})]
    noisy = run(tied(2, arms), noise=(NOISY,) * 2 + (1.0,) * (arms - 2), cautions=True)
    return Row(
        arms,
        "auto" if replicates is None else str(replicates),
        ties[0].named,
        min(tie.keeps_all for tie in ties),
        min(run(tied(2, arms), seed_effect=effect).mean_coverage for effect in SEED_EFFECTS),
        noisy.named,
        noisy.uncautioned,
    )


def by_score(curves: np.ndarray, score: str) -> np.ndarray:
    """What runs (…, E) are worth, (…)."""
    return curves.max(-1) if score == "best" else curves[..., -LAST:].mean(-1)


def signal_to_noise(scores: np.ndarray) -> float:
    """How much arms (A, S) differ by more than noise, in standard deviations of the noise within paired seeds."""
    fit = fit_paired(scores)
    return float(np.sqrt((scores.mean(1).var(ddof=1) - fit.variance / scores.shape[1]) / fit.variance))


def drawn_curves(
    recorded: np.ndarray, gaps: Sequence[float], seeds: int, repetitions: int, seed: int = 4
) -> np.ndarray:
    """(R, A, S, E): the mean curve of the best of the `recorded` (n, S', E) plus an arm's gap, and the residuals of a
    recorded run drawn at random, its configuration's and its seed's mean taken out."""
    best = np.argsort(-recorded[:, :, -LAST:].mean((1, 2)))[:POOL]
    pool = recorded[best]
    residuals = pool - pool.mean(1, keepdims=True) - pool.mean(0, keepdims=True) + pool.mean((0, 1))
    rows, columns = residuals.shape[:2]
    residuals *= np.sqrt(rows * columns / ((rows - 1) * (columns - 1)))
    drawn = np.random.default_rng(seed).integers(rows * columns, size=(repetitions, len(gaps), seeds))
    return pool[0].mean(0) + np.array(gaps)[:, None, None] + residuals.reshape(rows * columns, -1)[drawn]


def measure_scores(repetitions: int) -> Iterator[tuple[int, list[float]]]:
    """Replicates, and for both scores: false winner, all best kept, right winner of an arm better by 2.4 sd."""
    recorded = phantom(CURVES).scores
    sd = float(np.sqrt(fit_paired(by_score(recorded, "best")).variance))
    better = 0.03 / SD * sd
    for replicates in FEW_TO_MANY:
        found = []
        for score in ("best", "last3"):
            for gaps in ((0, 0, *[-2 * better] * 3), (better, *[0] * 4)):
                fit = fit_paired(by_score(drawn_curves(recorded, gaps, replicates, repetitions), score))
                kept = remaining(fit, np.ones(fit.means.shape, bool))
                alone = kept.sum(1) == 1
                found += (
                    [alone.mean(), kept[:, :2].all(1).mean()] if gaps[0] == gaps[1] else [(alone & kept[:, 0]).mean()]
                )
        yield replicates, [float(share) for share in found]


def measure_borrowed(repetitions: int) -> Iterator[tuple[int, list[float]]]:
    """Replicates, and with noise borrowed from 16 degrees of freedom: false winner, all best kept, means covered, right
    winner of an arm better by .03; false winner where these runs are noisier by one of `UNLIKE`."""
    chi = np.random.default_rng(7).chisquare(EARLIER_DOF, repetitions) / EARLIER_DOF
    for replicates in FEW_TO_MANY:
        found = []
        for means, ratio in ((tied(2, 5), 1.0), ((0.03, 0, 0, 0, 0), 1.0), *((tied(2, 5), ratio) for ratio in UNLIKE)):
            drawn = scores(means, replicates, repetitions, 1.5, 5)
            fit, _ = pooled(fit_paired(drawn), (SD / ratio) ** 2 * chi, EARLIER_DOF)
            kept = remaining(fit, np.ones(fit.means.shape, bool))
            it = outcome(means, fit, kept, np.zeros(1), INTERVAL_ERROR, None, OWN_ERROR)
            found.append(it.right if means[0] else it.named)
            found += [it.keeps_all, it.mean_coverage] if len(found) == 1 else []
        yield replicates, [float(share) for share in found]


def until_decided(
    means: Sequence[float],
    *,
    repetitions: int,
    most: int = 12,
    seed_effect: float = 1.5,
    seed: int = 6,
    noise: Sequence[float] = (1,),
    cautions: bool = False,
) -> Outcome:
    """replicates=until_decided with `most` rounds at most."""
    design = Rounds(costs=(1.0,) * len(means), most=most)
    drawn = scores(means, most, repetitions, seed_effect, seed, noise)
    stages, fit = replay_rounds(drawn, np.ones(drawn.shape, bool), design)
    assert stages.done.all()
    trained = np.where(stages.planned, drawn, np.nan) if cautions else None
    runs = stages.planned.sum((1, 2))
    return outcome(means, fit, stages.kept, runs, AUTO_INTERVAL_ERROR, trained, AUTO_OWN_ERROR)


def measure_until_decided(repetitions: int) -> Iterator[tuple[int, list[float]]]:
    """Rounds at most, and: false winner, all best kept (the least of 2, 3 and 5 tied), means and differences covered
    (the least of these and of one better by .03), that one named, and runs that it took ÷ those of all rounds."""
    for most in FEW_TO_MANY:
        ties = [until_decided(tied(number, 5), repetitions=repetitions, most=most) for number in (2, 3, 5)]
        better = until_decided((0.03, 0, 0, 0, 0), repetitions=repetitions, most=most)
        covered = [
            min(getattr(one, name) for one in (*ties, better)) for name in ("mean_coverage", "difference_coverage")
        ]
        yield (
            most,
            [ties[0].named, min(tie.keeps_all for tie in ties), *covered, better.right, better.runs / (5 * most)],
        )


def search_reused(configurations: int, replicates: int, repetitions: int, *, reused: bool) -> list[float]:
    """Bias of the means of the four best of a search, in SD, share of the differences to the baseline covered, and of
    confirmations in which some arm is told to be above it; all are equal. reused: the search's run is the first one."""
    random, top = np.random.default_rng(3), 4
    search = random.normal(0, SD, (repetitions, configurations))
    unselected = random.normal(0, SD, (repetitions, 1))
    first = np.concatenate([-np.sort(-search, axis=1)[:, :top], unselected], axis=1)
    drawn = random.normal(0, SD, (repetitions, top + 1, replicates))
    if reused:
        drawn[:, :, 0] = first
    fit = fit_paired(drawn)
    low, high = (ends[:, :top] for ends in difference_interval(fit, np.full(repetitions, top), INTERVAL_ERROR))
    covered = ((low <= 0) & (high >= 0)).mean()
    return [float(fit.means[:, :top].mean() / SD), float(covered), float((low > 0).any(1).mean())]


def print_rows(rows: Sequence[tuple[int, Sequence[float]]], header: Sequence[str]) -> None:
    """Shares in per cent, a line for each number of replicates."""
    lines = [[str(replicates), *(f"{100 * share:.1f}" for share in shares)] for replicates, shares in rows]
    print("\n" + table(lines, ["replicates", *header]), flush=True)


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    recorded = phantom(CURVES).scores
    yield Result(
        claim="signal to noise of paired seeds, the mean of the last three epochs ÷ the best epoch",
        values=(signal_to_noise(by_score(recorded, "last3")) / signal_to_noise(by_score(recorded, "best")),),
        target=1.0,
        note=f"{len(recorded)} recorded configurations of the phantom, {recorded.shape[1]} seeds each",
    )
    borrowed = list(measure_borrowed(arguments.draws // 2))
    unlike = [f"false winner, {ratio:g} × as noisy" for ratio in UNLIKE]
    print_rows(borrowed, ["false winner", "all best kept", "means covered", "right winner", *unlike])
    for claim, column, target, at_least in (
        ("noise=borrowed, equally noisy: two arms tie, one is named the winner", 0, 0.05, False),
        ("noise=borrowed, equally noisy: 95 % intervals of means cover", 2, 0.94, True),
    ):
        worst = (min if at_least else max)(found[column] for _, found in borrowed)
        note = "worst of 2 to 12 replicates, five arms"
        yield Result(claim=claim, values=(worst,), target=target, at_least=at_least, unit="", note=note)
    decided = list(measure_until_decided(arguments.draws // 2))
    named = ("false winner", "all best kept", "means covered", "differences covered", "right winner", "of all runs")
    print_rows(decided, named)
    yield Result(
        claim="replicates=until_decided: two arms tie, one is named the winner",
        values=(max(found[0] for _, found in decided),),
        target=0.05,
        at_least=False,
        unit="",
        note="worst of 2 to 12 rounds at most, five arms",
    )
    lines = []
    for configurations, replicates in itertools.product((15, 50), (2, 3, 5)):
        old, fresh = (
            search_reused(configurations, replicates, arguments.draws // 2, reused=reused) for reused in (True, False)
        )
        shares = (f"{100 * share:.1f}" for share in (*old[1:], fresh[2]))
        lines.append([str(configurations), str(replicates), f"{old[0]:.2f}", *shares])
    columns = ["configurations", "replicates", "bias, sd", "differences covered", "above baseline", "all runs fresh"]
    print("\nThe search's run as the first replicate\n" + table(lines, columns), flush=True)
    scored = list(measure_scores(arguments.draws // 2))
    named = ("false winner", "all best kept", "right winner")
    print_rows(scored, [f"{name}, {score}" for score in ("best", "last3") for name in named])
    yield Result(
        claim="score=last3 on recorded noise: two arms tie, one is named the winner",
        values=(max(found[3] for _, found in scored),),
        target=0.05,
        at_least=False,
        unit="",
        note="worst of 2 to 12 replicates, five arms",
    )
    rows = [measure(arms, number, arguments.draws) for arms in ARMS for number in REPLICATES]
    rows += [measure(arms, None, arguments.draws) for arms in ARMS]
    header = [
        "arms",
        "replicates",
        "false winner",
        "all best kept",
        "means covered",
        "false winner, 3 × sd",
        "unmarked",
    ]
    lines = [[str(row.arms), row.replicates, *(f"{100 * share:.1f}" for share in row[2:])] for row in rows]
    print(table(lines, header), flush=True)
    for claim, field, target, at_least in (
        ("two arms tie, one is named the winner", "false_winner", 0.05, False),
        ("all truly best arms are kept", "keeps_all", 0.95, True),
        ("95 % intervals of means cover", "mean_coverage", 0.94, True),
        ("a false winner without a caution, two tied arms with 3 × sd", "uncautioned_noisy", 0.05, False),
    ):
        worst = (min if at_least else max)(rows, key=lambda row: getattr(row, field))
        yield Result(
            claim=claim,
            values=(getattr(worst, field),),
            target=target,
            at_least=at_least,
            unit="",
            note=f"worst of {len(rows)}: {worst.arms} arms, replicates={worst.replicates}; {arguments.draws} draws",
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=10_000, help="simulated confirmations per figure")


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
