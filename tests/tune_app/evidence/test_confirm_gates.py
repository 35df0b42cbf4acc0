"""What a confirmation promises, counted on simulated arms: ties stay ties, a better arm is found, intervals cover.

sd 0.0127 as measured, five arms, five replicates (auto: the same 25 runs), fixed seeds, seed effects off and on.
"""

from __future__ import annotations

import pytest

from benchmarks.confirmation import Outcome, auto, fixed, tied, until_decided

ALL_EQUAL = (0, 0, 0, 0, 0)
TWO_TIED = {gap: tied(2, 5, gap) for gap in (0.01, 0.02, 0.03, 0.05)}
THREE_TIED = {gap: tied(3, 5, gap) for gap in (0.01, 0.02, 0.03, 0.05)}
ONE_BETTER = (0.03, 0, 0, 0, 0)
SEED_EFFECTS = (0.0, 1.5)

FIXED = {"repetitions": 10_000}
AUTO = {"repetitions": 4_000, "budget": 25}
TIES = [pytest.param(ALL_EQUAL, id="all equal")]
TIES += [pytest.param(means, id=f"two tied, rest {gap} worse") for gap, means in TWO_TIED.items()]
TIES += [pytest.param(means, id=f"three tied, rest {gap} worse") for gap, means in THREE_TIED.items()]


def stays_a_tie(outcome: Outcome) -> None:
    assert outcome.named <= 0.05
    covers(outcome)


def covers(outcome: Outcome) -> None:
    assert 0.94 <= outcome.mean_coverage <= 0.98
    assert 0.93 <= outcome.difference_coverage <= 0.97


def finds_the_better(outcome: Outcome, power: float) -> None:
    assert outcome.keeps_best >= 0.95
    assert outcome.right >= power
    assert outcome.named - outcome.right <= 0.005
    covers(outcome)


@pytest.mark.parametrize("seed_effect", SEED_EFFECTS)
@pytest.mark.parametrize("means", TIES)
def test_fixed_replicates_name_no_winner_of_a_tie(means, seed_effect):
    outcome = fixed(means, seed_effect=seed_effect, **FIXED)
    stays_a_tie(outcome)
    assert outcome.keeps_all >= 0.95


@pytest.mark.parametrize("seed_effect", SEED_EFFECTS)
def test_fixed_replicates_find_an_arm_better_by_003(seed_effect):
    finds_the_better(fixed(ONE_BETTER, seed_effect=seed_effect, **FIXED), 0.8)


@pytest.mark.parametrize("seed_effect", SEED_EFFECTS)
@pytest.mark.parametrize("means", TIES)
def test_auto_names_no_winner_of_a_tie(means, seed_effect):
    outcome = auto(means, seed_effect=seed_effect, **AUTO)
    stays_a_tie(outcome)
    assert outcome.keeps_all >= 0.95


@pytest.mark.parametrize("seed_effect", SEED_EFFECTS)
def test_auto_finds_an_arm_better_by_003_with_fewer_runs(seed_effect):
    outcome = auto(ONE_BETTER, seed_effect=seed_effect, **AUTO)
    finds_the_better(outcome, 0.8)
    assert outcome.runs < 24


@pytest.mark.parametrize("number", [2, 5])
def test_rounds_until_decided_name_no_winner_of_a_tie(number):
    outcome = until_decided(tied(number, 5), repetitions=1_000, most=20)
    stays_a_tie(outcome)
    assert outcome.keeps_all >= 0.96


def test_rounds_until_decided_find_an_arm_better_by_003():
    outcome = until_decided(ONE_BETTER, repetitions=1_000)
    finds_the_better(outcome, 0.95)
    assert outcome.runs < 35, "of 60"


@pytest.mark.parametrize("seed_effect", SEED_EFFECTS)
@pytest.mark.parametrize("number", [2, 3, 12])
def test_ties_stay_ties_among_twelve(number, seed_effect):
    means = tied(number, 12, 0.03)
    stays_a_tie(fixed(means, repetitions=4_000, seed_effect=seed_effect))
    stays_a_tie(auto(means, repetitions=1_000, seed_effect=seed_effect, budget=60))


def test_an_arm_better_than_eleven_is_not_lost():
    """Power among twelve is reported in docs/confirm.md (0.74 and 0.84), not promised; a wrong winner is."""
    means = (0.03,) + (0,) * 11
    for outcome in (
        fixed(means, repetitions=4_000, seed_effect=0.0),
        auto(means, repetitions=1_000, seed_effect=0.0, budget=60),
    ):
        finds_the_better(outcome, 0.5)


@pytest.mark.parametrize("gap", [0.001, 0.005, 0.01])
def test_a_slightly_better_arm_stays_in_the_set(gap):
    """Where a lead is too small to be seen, the truly best must not be thrown out for an equal that was lucky."""
    for means in ((gap, 0, 0, 0, 0), (gap, 0, -0.05, -0.05, -0.05), (gap, 0, -0.01, -0.02, -0.03)):
        assert fixed(means, repetitions=10_000, seed_effect=0.0).keeps_best >= 0.95
        assert auto(means, repetitions=2_000, seed_effect=0.0, budget=25).keeps_best >= 0.95


@pytest.mark.parametrize("budget", [10, 15, 40, 100])
def test_auto_holds_at_other_budgets(budget):
    for means in (ALL_EQUAL, TWO_TIED[0.01], TWO_TIED[0.03]):
        outcome = auto(means, repetitions=2_000, seed_effect=0.0, budget=budget)
        assert outcome.named <= 0.05
        assert 0.94 <= outcome.mean_coverage <= 0.995


def test_auto_keeps_all_that_tie_however_many_rounds_it_has():
    """Arms that are passed over early stay unlucky: at the whole error of a look 93 % of these ties were kept."""
    assert auto(tied(4, 12), repetitions=2_000, budget=8 * 12).keeps_all >= 0.95


@pytest.mark.parametrize("replicates", [2, 3])
@pytest.mark.parametrize("arms", [5, 12])
def test_means_of_few_replicates_are_covered_where_seeds_differ_much(arms, replicates):
    outcome = fixed((0,) * arms, repetitions=4_000, replicates=replicates, seed_effect=3.0)
    assert outcome.mean_coverage >= 0.94


def test_a_false_winner_of_two_noisy_arms_is_marked():
    noise = (3, 3, *[1] * 10)
    for outcome in (
        fixed(tied(2, 12), repetitions=1_000, noise=noise, cautions=True),
        auto(tied(2, 12), repetitions=1_000, budget=5 * 12, noise=noise, cautions=True),
    ):
        assert outcome.named > 0.2
        assert outcome.uncautioned <= 0.07
