"""The two-way fit against brute force, the thresholds against scipy and draws, the rule against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from tune_app.evidence.critical import drop_critical, range_critical, range_probability, t_critical, t_probability
from tune_app.evidence.equivalence import leader, remaining
from tune_app.evidence.intervals import best_difference_interval, mean_interval, probability_best
from tune_app.evidence.layout import Fit, fit_paired, fit_unpaired
from tune_app.evidence.noise import noisiest, own_pair_probability
from tune_app.evidence.stages import Stages, plan_stages


def table(arms: int, seeds: int, missing: int = 0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    scores = random.normal(0.5, 0.02, (arms, seeds)) + random.normal(0, 0.05, seeds)
    scores.ravel()[random.choice(scores.size, missing, replace=False)] = np.nan
    return scores


def least_squares(scores: np.ndarray) -> tuple[np.ndarray, float, int, np.ndarray]:
    """Arm effects, residual variance, dof and Var(difference)/σ² by brute force on the full design matrix."""
    arms, seeds = scores.shape
    cells = list(zip(*np.nonzero(np.isfinite(scores))))
    design = np.array([np.r_[np.eye(arms)[a], np.eye(seeds)[s]] for a, s in cells])
    y = np.array([scores[cell] for cell in cells])
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    residual, dof = y - design @ solution, len(y) - rank
    covariance = np.linalg.pinv(design.T @ design)[:arms, :arms]
    of_differences = np.diag(covariance)[:, None] + np.diag(covariance) - 2 * covariance
    return solution[:arms], residual @ residual / dof, dof, of_differences


@pytest.mark.parametrize(("arms", "seeds", "missing"), [(5, 5, 0), (5, 5, 4), (2, 3, 1), (3, 8, 7), (12, 5, 10)])
def test_the_paired_fit_is_least_squares(arms, seeds, missing):
    scores = table(arms, seeds, missing)
    fit = fit_paired(scores)
    effects, variance, dof, of_differences = least_squares(scores)
    assert fit.connected
    assert fit.dof == dof
    np.testing.assert_allclose(fit.means - fit.means[0], effects - effects[0], atol=1e-12)
    np.testing.assert_allclose(fit.variance, variance, rtol=1e-9)
    np.testing.assert_allclose(fit.unit, of_differences, atol=1e-9)


def test_a_complete_table_gives_plain_means_and_textbook_intervals():
    scores = table(4, 6)
    fit = fit_paired(scores)
    np.testing.assert_allclose(fit.means, scores.mean(1))
    seed_square = 4 * scores.mean(0).var(ddof=1)
    np.testing.assert_allclose(fit.mean_variance, (seed_square + 3 * fit.variance) / 4 / 6)
    assert np.isclose(fit.seed_variance, max(0, (seed_square - fit.variance) / 4))


def test_an_interval_weights_the_t_quantiles_of_noise_and_seeds_by_their_variance():
    fit = fit_paired(table(5, 3))
    (noise, between), (noise_dof, seeds_dof) = fit.mean_parts[0], fit.parts_dof[0]
    assert (noise_dof, seeds_dof) == (8, 2)
    half = (noise * stats.t.ppf(0.975, 8) + between * stats.t.ppf(0.975, 2)) / np.sqrt(noise + between)
    low, high = mean_interval(fit, 0.05)
    np.testing.assert_allclose([low[0], high[0]], [fit.means[0] - half, fit.means[0] + half])


def test_one_arm_has_the_interval_of_its_own_scores():
    scores = table(1, 6)
    fit = fit_paired(scores)
    low, high = mean_interval(fit, 0.05)
    expected = stats.t.interval(0.95, 5, scores.mean(), stats.sem(scores[0]))
    np.testing.assert_allclose([low[0], high[0]], expected)
    assert not fit.measured


def test_a_shift_of_a_seed_moves_no_difference():
    scores = table(4, 5, missing=3)
    shifted = scores + np.array([1.0, 0, -2, 5, 0])
    before, after = fit_paired(scores), fit_paired(shifted)
    np.testing.assert_allclose(np.diff(before.means), np.diff(after.means), atol=1e-12)
    np.testing.assert_allclose(before.variance, after.variance)


def test_leading_axes_are_repetitions():
    many = np.stack([table(4, 5, missing=m, seed=m) for m in range(4)])
    together = fit_paired(many)
    for i, scores in enumerate(many):
        alone = fit_paired(scores)
        for name in Fit.__dataclass_fields__:
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name), atol=1e-12)


def test_arms_that_share_no_seed_are_not_compared():
    scores = np.array([[0.5, 0.52, np.nan, np.nan], [np.nan, np.nan, 0.9, 0.91]])
    fit = fit_paired(scores)
    assert not fit.connected
    assert not fit.measured
    np.testing.assert_allclose(fit.means, [0.51, 0.905])
    assert remaining(fit, np.ones(2, bool)).all()


def test_an_arm_without_a_score_changes_nothing_for_the_others():
    scores = table(4, 5)
    fit = fit_paired(np.vstack([scores, np.full(5, np.nan)]))
    alone = fit_paired(scores)
    assert np.isnan(fit.means[-1])
    np.testing.assert_allclose(fit.means[:-1], alone.means)
    np.testing.assert_allclose([fit.variance, fit.dof], [alone.variance, alone.dof])
    assert not remaining(fit, np.ones(5, bool))[-1]


def test_the_unpaired_fit_is_one_way_analysis_of_variance():
    scores = np.array([[0.5, 0.52, 0.51], [0.6, np.nan, 0.61], [0.7, np.nan, np.nan]])
    fit = fit_unpaired(scores)
    assert fit.dof == 3
    assert np.isclose(fit.variance, (np.var([0.5, 0.52, 0.51]) * 3 + np.var([0.6, 0.61]) * 2) / 3)
    np.testing.assert_allclose(fit.unit[0], [0, 1 / 3 + 1 / 2, 1 / 3 + 1])


@pytest.mark.parametrize(("k", "dof", "error"), [(3, 16, 0.05), (5, 4, 0.05), (5, 16, 0.005), (12, 44, 0.05)])
def test_the_studentised_range_is_scipys(k, dof, error):
    threshold = range_critical(k, float(dof), error)
    assert np.isclose(threshold * np.sqrt(2), stats.studentized_range.ppf(1 - error, k, dof), rtol=1e-4)
    assert np.isclose(range_probability(threshold, k, float(dof)), error, rtol=1e-4)


def test_students_t_is_scipys_and_unknown_without_degrees_of_freedom():
    assert np.isclose(t_critical(16, 0.05), stats.t.ppf(0.975, 16))
    assert np.isclose(t_probability(-2.5, 7.5), 2 * stats.t.sf(2.5, 7.5))
    assert np.isnan(t_critical(0, 0.05))
    assert np.isnan(t_probability(1, 0))


@pytest.mark.parametrize(("k", "dof"), [(3, 16), (5, 16), (4, 3), (12, 44)])
def test_both_rules_together_part_ties_at_the_error(k, dof):
    random = np.random.default_rng(k)
    draws = np.sort(random.standard_normal((400_000, k)), axis=1)
    s = np.sqrt(2 * random.chisquare(dof, len(draws)) / dof)
    gap, spread = (draws[:, -1] - draws[:, -2]) / s, (draws[:, -1] - draws[:, 0]) / s
    parted = (gap > t_critical(dof, 0.05)) | (spread > drop_critical(k, float(dof), 0.05))
    assert np.isclose(parted.mean(), 0.05, atol=0.0015)


def with_leads(leads: list[float], seeds: int) -> Fit:
    """Arms that lie `leads` standard errors below the first."""
    noise = table(len(leads), seeds)
    error = fit_paired(noise).standard_error(np.asarray(0))[1]
    return fit_paired(noise - noise.mean(1, keepdims=True) - error * np.array(leads)[:, None])


def test_a_look_of_auto_parts_the_worst_arm_at_half_its_error_and_names_a_winner_at_all_of_it():
    half, whole = (drop_critical(4, 12.0, error) for error in (0.02, 0.04))
    arms = np.ones(4, bool)
    design = plan_stages([1.0] * 4, 20)

    def look(leads: list[float]) -> list[bool]:
        stages = Stages.begin((4, 5), design)
        stages.look(with_leads(leads, 5), np.asarray(True), 0.04)
        return stages.kept.tolist()

    assert remaining(with_leads([0, 0, 0, whole + 0.01], 5), arms, 0.04).tolist() == [True, True, True, False]
    assert look([0, 0, 0, half - 0.01]) == [True] * 4
    assert look([0, 0, 0, half + 0.01]) == [True, True, True, False]
    ahead = float(t_critical(12, 0.04)) + 0.01
    assert look([0, ahead, ahead, ahead]) == [True, False, False, False]


def test_for_two_arms_the_rule_is_students_paired_t():
    for seed in range(40):
        scores = table(2, 6, seed=seed)
        scores[0] += 0.015
        p = stats.ttest_rel(scores[0], scores[1]).pvalue
        assert (remaining(fit_paired(scores), np.ones(2, bool), 0.05).sum() == 1) == (p < 0.05)
        assert np.isclose(own_pair_probability(scores, 0, 1, paired=True), p)


def test_the_set_is_what_stepping_down_by_hand_leaves():
    for seed in range(60):
        scores = table(6, 4, seed=seed) + np.linspace(0, 0.06, 6)[:, None]
        fit = fit_paired(scores)
        expected = step_down(fit, 0.05)
        assert set(np.flatnonzero(remaining(fit, np.ones(6, bool), 0.05))) == expected


def step_down(fit: Fit, error: float) -> set[int]:
    best = int(fit.means.argmax())
    t = {a: (fit.means[best] - fit.means[a]) / np.sqrt(fit.variance * fit.unit[best, a]) for a in range(6) if a != best}
    if min(t.values()) > t_critical(fit.dof, error):
        return {best}
    while len(t) >= 2 and max(t.values()) > drop_critical(len(t) + 1, float(fit.dof), error):
        del t[max(t, key=t.__getitem__)]
    return {best, *t}


def test_adding_a_constant_or_a_scale_changes_no_decision():
    scores = table(5, 5, missing=2) + np.array([0.05, 0, 0, 0.05, 0])[:, None]
    expected = remaining(fit_paired(scores), np.ones(5, bool))
    for changed in (scores + 3, scores * 40, scores[:, ::-1]):
        assert (remaining(fit_paired(changed), np.ones(5, bool)) == expected).all()


def test_probability_best_is_the_integral_for_two_arms_and_a_share_for_equals():
    scores = table(2, 6)
    fit = fit_paired(scores)
    t = (fit.means[0] - fit.means[1]) / np.sqrt(fit.variance * fit.unit[0, 1])
    assert np.isclose(probability_best(fit)[0], stats.t.cdf(t, fit.dof), atol=0.01)
    balanced = np.array([[0.0, 0.01, -0.01], [0.01, -0.01, 0.0], [-0.01, 0.0, 0.01]])
    np.testing.assert_allclose(probability_best(fit_paired(balanced)), 1 / 3, atol=0.01)
    assert np.isclose(probability_best(fit_paired(table(5, 5, missing=3))).sum(), 1)


def test_differences_to_the_best_agree_with_the_set_and_cover():
    random = np.random.default_rng(5)
    true = np.array([0.03, 0.02, 0, 0, -0.05])
    fit = fit_paired(true[:, None] + random.normal(0, 0.0127, (4000, 5, 5)))
    kept = remaining(fit, np.ones(fit.means.shape, bool))
    estimate, low, high = best_difference_interval(fit, kept, 0.05)
    target = np.array([a - max(np.delete(true, i)) for i, a in enumerate(true)])
    assert ((low <= target) & (target <= high)).all(axis=1).mean() >= 0.95
    assert (high[~kept] <= 0).all()
    assert (low[kept & (kept.sum(1) == 1)[:, None]] >= 0).all()
    assert (estimate.argmax(1) == leader(fit, np.ones(fit.means.shape, bool))).all()


def test_the_noisiest_arm_is_found_and_equal_noise_is_not_accused():
    random = np.random.default_rng(3)
    scale = np.array([1, 1, 6, 1, 1])[:, None]
    arm, ratio, p = noisiest(random.normal(0, 0.01, (5, 8)) * scale, paired=True)
    assert (arm, p < 0.01) == (2, True)
    assert 2 < ratio < 18
    accused = [noisiest(random.normal(0, 0.01, (4, 5)), paired=True)[2] < 0.05 for _ in range(60)]
    assert np.mean(accused) < 0.15
    assert np.isnan(noisiest(random.normal(0, 0.01, (2, 5)), paired=True)[2])


def test_pairs_of_arms_are_exchangeable():
    scores = table(4, 5, missing=3)
    fit = fit_paired(scores)
    for order in itertools.islice(itertools.permutations(range(4)), 6):
        permuted = fit_paired(scores[list(order)])
        np.testing.assert_allclose(permuted.means, fit.means[list(order)])
        np.testing.assert_allclose(permuted.mean_variance, fit.mean_variance[list(order)])
