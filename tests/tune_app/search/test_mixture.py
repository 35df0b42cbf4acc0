"""The density of a mixture is Optuna's."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights

from tune_app.search import mixture
from tune_app.search.mixture import log_pdf

PLAIN, LOG = FloatDistribution(0.0, 2.0), FloatDistribution(1e-4, 0.3, log=True)
FAR = FloatDistribution(1000.0, 1001.0)
CHOICE = CategoricalDistribution(["a", "b", "c"])
SETTINGS = _ParzenEstimatorParameters(1.0, True, False, default_weights, True)


def estimator(axes: dict[str, BaseDistribution], kernels: int, seed: int = 0) -> _ParzenEstimator:
    rng = np.random.default_rng(seed)
    values = {name: drawn(axis, kernels, rng) for name, axis in axes.items()}
    return _ParzenEstimator(values, axes, SETTINGS)


def drawn(axis: BaseDistribution, count: int, rng: np.random.Generator) -> np.ndarray:
    """Values of one axis; some of them lie on its ends."""
    if isinstance(axis, CategoricalDistribution):
        return rng.integers(0, len(axis.choices), count).astype(float)
    values = rng.uniform(axis.low, axis.high, count)
    values[::7], values[3::11] = axis.low, axis.high
    return values


@pytest.mark.parametrize("kernels", [0, 1, 2, 50, 2500])
@pytest.mark.parametrize(
    "axes", [{"p": PLAIN}, {"p": LOG}, {"p": PLAIN, "q": LOG, "r": FAR}, {"c": CHOICE}, {"p": LOG, "c": CHOICE}]
)
def test_it_is_that_of_optuna(axes, kernels):
    made = estimator(axes, kernels)
    points = made._transform(made.sample(np.random.RandomState(1), 24))
    np.testing.assert_allclose(
        log_pdf(made._mixture_distribution, points), made._mixture_distribution.log_pdf(points), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("points", [[[-0.1]], [[2.1]], [[0.5], [3.0]]])
def test_values_outside_the_range_are_left_to_optuna(points):
    made = estimator({"p": PLAIN}, 5)._mixture_distribution
    expected = made.log_pdf(np.array(points))
    assert np.array_equal(log_pdf(made, np.array(points)), expected)
    assert np.isneginf(expected).any()


def test_other_distributions_are_left_to_optuna(monkeypatch):
    made = estimator({"n": IntDistribution(1, 9)}, 5)
    points = made._transform(made.sample(np.random.RandomState(1), 4))
    monkeypatch.setattr(mixture, "_log_sum_exp", None)
    assert np.array_equal(log_pdf(made._mixture_distribution, points), made._mixture_distribution.log_pdf(points))
