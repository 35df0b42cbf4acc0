"""replicates=auto as the verb drives it: proposals in whole rounds, resumed at any point, within the budget."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import integrate

from tune_app.errors import InputError
from tune_app.evidence import Design, Replicates, Rounds, confirm_statistics, next_replicates, plan_stages
from tune_app.evidence.critical import PRIOR, anytime_critical

NAMES = ["a", "b", "c", "d", "e"]


class Laboratory:
    """Runs what is proposed: scores of arm + seed + noise that depend on (arm, column) alone."""

    def __init__(self, means: list[float], *, fails: tuple[tuple[int, int], ...] = (), seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.truth = np.array(means)[:, None] + random.normal(0, 0.0127, (len(means), 60)) + random.normal(0, 0.02, 60)
        for cell in fails:
            self.truth[cell] = np.nan
        self.scores = np.full((len(means), 1), np.nan)
        self.attempted = np.zeros((len(means), 1), bool)
        self.order: list[tuple[str, int]] = []

    @property
    def runs(self) -> Replicates:
        names = NAMES[: len(self.truth)]
        return Replicates(arms=names, scores=self.scores, attempted=self.attempted, baseline=names[-1])

    def run(self, name: str, column: int) -> None:
        more = max(0, column + 1 - self.scores.shape[1])
        self.scores = np.pad(self.scores, ((0, 0), (0, more)), constant_values=np.nan)
        self.attempted = np.pad(self.attempted, ((0, 0), (0, more)))
        arm = NAMES.index(name)
        assert not self.attempted[arm, column], "asked for twice"
        self.scores[arm, column] = self.truth[arm, column]
        self.attempted[arm, column] = True
        self.order.append((name, column))

    def until_done(self, design: Design | Rounds, *, one_by_one: bool = False) -> list[list[tuple[str, int]]]:
        batches = []
        for _ in range(200):
            proposal = next_replicates(self.runs, design)
            if proposal.done:
                assert proposal.runs == []
                return batches
            batches.append(proposal.runs)
            for cell in proposal.runs[:1] if one_by_one else proposal.runs:
                self.run(*cell)
        raise AssertionError("never done")


def test_the_first_stage_is_three_rounds_of_all_arms():
    proposal = next_replicates(Laboratory([0.5] * 5).runs, plan_stages([1.0] * 5, 25))
    assert sorted(proposal.runs) == [(name, column) for name in NAMES for column in range(3)]
    assert (proposal.hours, proposal.done) == (15, False)


def test_stages_are_paired_rounds_on_fresh_columns():
    laboratory = Laboratory([0.53, 0.5, 0.5, 0.49, 0.4])
    batches = laboratory.until_done(plan_stages([1.0] * 5, 25))
    used: set[int] = set()
    for batch in batches:
        columns = {column for _, column in batch}
        arms = {name for name, _ in batch}
        assert len(batch) == len(columns) * len(arms)
        assert not columns & used
        assert columns == set(range(len(used), len(used) + len(columns)))
        used |= columns
    assert len(batches) > 1
    assert len(laboratory.order) <= 25
    hopeless = [column for name, column in laboratory.order if name == "e"]
    assert len(hopeless) == 3, "an arm that is far behind gets no run after the first stage"


def test_running_one_by_one_or_resuming_gives_the_same_runs():
    design = plan_stages([1.0, 1.0, 2.0, 0.5, 1.0], 30)
    batches, singles = Laboratory([0.53, 0.52, 0.5, 0.5, 0.5]), Laboratory([0.53, 0.52, 0.5, 0.5, 0.5])
    batches.until_done(design)
    singles.until_done(design, one_by_one=True)
    assert sorted(batches.order) == sorted(singles.order)
    assert confirm_statistics(batches.runs, design).to_json() == confirm_statistics(singles.runs, design).to_json()


def test_the_design_survives_json():
    design = plan_stages([1.0, 2.0], 30)
    read = Design(**json.loads(json.dumps(dataclasses.asdict(design))))
    laboratory = Laboratory([0.53, 0.5])
    laboratory.until_done(design)
    assert next_replicates(laboratory.runs, read).done
    assert confirm_statistics(laboratory.runs, read).to_json() == confirm_statistics(laboratory.runs, design).to_json()


def test_a_failed_run_is_spent_and_not_asked_for_again():
    laboratory = Laboratory([0.53, 0.5, 0.5, 0.5, 0.5], fails=((0, 1), (3, 0)))
    design = plan_stages([1.0] * 5, 25)
    laboratory.until_done(design)
    found = confirm_statistics(laboratory.runs, design)
    assert [arm.failed for arm in found.arms] == [1, 0, 0, 1, 0]
    assert any("a (1), d (1)" in caution for caution in found.cautions)
    assert found.stages is not None
    assert found.stages.hours_used == len(laboratory.order) <= 25


def test_an_arm_whose_every_run_fails_is_left_behind():
    laboratory = Laboratory([0.53, 0.5, 0.5], fails=((2, 0), (2, 1), (2, 2), (2, 3), (2, 4)))
    design = plan_stages([1.0] * 3, 15)
    laboratory.until_done(design)
    found = confirm_statistics(laboratory.runs, design)
    assert found.arms[2].replicates == 0
    assert found.equivalence_set == ["a"] or set(found.equivalence_set) == {"a", "b"}
    assert any("Without any score" in caution for caution in found.cautions)


def test_dear_arms_are_counted_at_their_cost():
    costs = [4.0, 1.0, 1.0, 1.0, 1.0]
    laboratory = Laboratory([0.5] * 5)
    design = plan_stages(costs, 40)
    laboratory.until_done(design)
    spent = sum(costs[NAMES.index(name)] for name, _ in laboratory.order)
    assert 32 < spent <= 40


def test_an_obvious_winner_ends_early():
    laboratory = Laboratory([0.8, 0.5, 0.5, 0.5, 0.5])
    design = plan_stages([1.0] * 5, 100)
    laboratory.until_done(design)
    proposal = next_replicates(laboratory.runs, design)
    assert proposal.reason == "one arm is left"
    assert len(laboratory.order) == 40
    assert confirm_statistics(laboratory.runs, design).winner == "a"


def test_halfway_there_is_no_winner_and_it_says_so():
    laboratory = Laboratory([0.5] * 5)
    design = plan_stages([1.0] * 5, 25)
    for cell in next_replicates(laboratory.runs, design).runs:
        laboratory.run(*cell)
    found = confirm_statistics(laboratory.runs, design)
    assert found.winner is None
    assert "Replicates are still to come." in found.reasons
    assert found.stages is not None
    assert (found.stages.looks, found.stages.done) == (1, False)


def test_looks_spend_no_more_than_the_error():
    design = plan_stages([1.0] * 5, 100)
    for looks in range(design.looks):
        spent = sum(design.share(stage, last=False) for stage in range(looks)) + design.share(looks, last=True)
        assert np.isclose(spent, design.error)
    assert design.share(design.looks - 1, last=True) > 0.7 * design.error


@pytest.mark.parametrize("costs", [[1.0] * 5, [0.5, 1, 2, 4, 3]])
def test_a_budget_for_less_than_two_rounds_is_refused(costs):
    with pytest.raises(InputError, match="Raise the budget or lower top"):
        plan_stages(costs, 1.9 * sum(costs))
    assert plan_stages(costs, 2 * sum(costs)).first == 2


def test_costs_and_arms_are_checked():
    with pytest.raises(InputError, match="two arms"):
        plan_stages([1.0], 10)
    with pytest.raises(InputError, match="costs"):
        plan_stages([1.0, 0.0], 10)
    with pytest.raises(InputError, match="the design has 3 arms"):
        confirm_statistics(Replicates(arms=["a", "b"], scores=np.ones((2, 2))), plan_stages([1.0] * 3, 10))


@pytest.mark.parametrize(("dof", "unit"), [(4, 1.0), (16, 0.4), (44, 1 / 6)])
def test_the_anytime_threshold_is_where_the_evidence_is_one_over_the_error(dof, unit):
    """The ratio of two integrals over σ, with a prior of 1/σ: of the difference around 0, and spread by `PRIOR`."""
    t = float(anytime_critical(np.asarray(dof), np.asarray(unit), 0.05))

    def likelihood(variance):
        def density(sigma):
            return sigma ** -(dof + 2.0) * np.exp(-(dof + t**2 * unit / variance) / (2 * sigma**2)) / np.sqrt(variance)

        return integrate.quad(density, 0, np.inf)[0]

    np.testing.assert_allclose(likelihood(unit + PRIOR) / likelihood(unit), 20, rtol=1e-3)


@pytest.mark.parametrize("dof", [0.0, 1.0])
def test_no_difference_is_enough_where_the_noise_is_hardly_known(dof):
    assert anytime_critical(np.asarray(dof), np.asarray(1.0), 0.05) == np.inf


def test_rounds_go_on_as_they_would_have_after_any_interruption():
    design = Rounds(costs=(1.0, 1.0, float("nan")), most=9)
    whole, pieces = (Laboratory([0.52, 0.5, 0.44], seed=2, fails=((1, 3),)) for _ in range(2))
    batches = whole.until_done(design)
    pieces.until_done(design, one_by_one=True)
    assert pieces.order == whole.order
    assert sorted(batches[0]) == [(name, column) for name in "abc" for column in range(2)]
    assert all(len({column for _, column in batch}) == 1 for batch in batches[1:])
    found = confirm_statistics(whole.runs, design)
    assert found.stages is not None
    assert (found.stages.done, found.stages.looks) == (True, len(batches))
    assert confirm_statistics(pieces.runs, design).to_json() == found.to_json()


def test_rounds_end_at_their_most_and_say_what_is_missing():
    laboratory, design = Laboratory([0.5, 0.5], seed=1), Rounds(costs=(1.0, 1.0), most=4)
    assert sum(map(len, laboratory.until_done(design))) == 8
    assert next_replicates(laboratory.runs, design).reason == "all rounds are trained"
    found = confirm_statistics(laboratory.runs, design)
    assert found.winner is None
    assert found.duel is not None
    assert found.duel.needed > found.duel.difference
    few = confirm_statistics(Replicates(arms=list("ab"), scores=laboratory.scores[:, :2]), Rounds((1.0, 1.0), most=2))
    assert "after so few rounds no lead is enough" in few.reasons[0]
