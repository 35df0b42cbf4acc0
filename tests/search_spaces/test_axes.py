"""Whole numbers and mixtures as axes: what they contain, their grids, and how they are narrowed and searched."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from search_spaces import Choice, Float, Int, Simplex, independent, narrow
from trainables.losses import SettingsError

MIX = Simplex(("dice", "bce", "focal"), help="weights of the terms")
SPACE = {"lr": Float(1e-4, 1.0, log=True), "depth": Int(1, 4), "kind": Choice(("a", "b")), "mix": MIX, "one": Int(2, 2)}


def test_a_whole_number() -> None:
    axis = Int(1, 8)
    assert axis.contains(1)
    assert axis.contains(8)
    assert not any(axis.contains(value) for value in (0, 9, 2.0, True, "2", math.nan))
    assert axis.grid(1) == [1]
    assert axis.grid(3) == [1, 4, 8]
    assert axis.grid(100) == list(range(1, 9))
    assert Int(1, 1000, log=True).grid(4) == [1, 10, 100, 1000]
    assert (axis.fixed, Int(3, 3).fixed, axis.describe()) == (False, True, "[1, 8], whole numbers")
    with pytest.raises(SettingsError, match="whole numbers"):
        Int(1, 2.5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="low > 0"):
        Int(0, 3, log=True)


def test_a_whole_number_is_narrowed() -> None:
    assert narrow({"depth": Int(1, 8)}, {"depth": [2, 4]}) == {"depth": Int(2, 4)}
    assert narrow({"depth": Int(1, 8)}, {"depth": 3}) == {"depth": Int(3, 3)}
    for wanted, message in (
        (9, r"space\.depth: 9 lies outside .*\[1, 8\]"),
        (2.5, r"space\.depth: 2\.5 is not a whole number"),
        ("x", r"space\.depth: x is not a number"),
        ([4, 2], r"space\.depth: \[4, 2\] is no range"),
    ):
        with pytest.raises(SettingsError, match=message):
            narrow({"depth": Int(1, 8)}, {"depth": wanted})
    with pytest.raises(SettingsError, match=r"Choose a value or a \[low, high\] inside it: space\.depth=2"):
        narrow({"depth": Int(1, 2)}, {"depth": 7})


def test_a_mixture_contains_weights_that_sum_to_1() -> None:
    assert MIX.contains([0.2, 0.3, 0.5])
    assert MIX.contains((1, 0, 0))
    for wrong in ([0.2, 0.3], [0.2, 0.3, 0.4], [-0.5, 1.0, 0.5], [math.nan, 0.5, 0.5], 0.5, "abc", ["a", 0, 1]):
        assert not MIX.contains(wrong), wrong
    with pytest.raises(SettingsError, match="different parts"):
        Simplex(("a", "a"))


def test_the_grid_of_a_mixture_is_the_lattice_of_its_simplex() -> None:
    assert MIX.grid(1) == [pytest.approx([1 / 3] * 3)]
    assert sorted(MIX.grid(2)) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert len(MIX.grid(5)) == math.comb(4 + 2, 2)
    assert all(MIX.contains(weights) for weights in MIX.grid(5))


def test_a_mixture_is_fixed_at_weights_or_narrowed_to_some_parts() -> None:
    fixed = narrow({"mix": MIX}, {"mix": [0.25, 0.25, 0.5]})["mix"]
    assert (fixed.fixed, fixed.grid(3)) == (True, [[0.25, 0.25, 0.5]])
    two = narrow({"mix": MIX}, {"mix": ["bce", "dice"]})["mix"]
    assert two.contains([0.3, 0.7, 0.0])
    assert not two.contains([0.3, 0.6, 0.1])
    assert sorted(two.grid(2)) == [[0, 1, 0], [1, 0, 0]]
    assert narrow({"mix": MIX}, {"mix": "bce"})["mix"].grid(4) == [[0, 1, 0]]
    with pytest.raises(SettingsError, match=r"space\.mix: \[0\.5, .* is not of the form[\s\S]*\[0\.5,0\.5,0\]"):
        narrow({"mix": MIX}, {"mix": [0.5, 0.4, 0.3]})
    with pytest.raises(SettingsError, match=r"space\.mix: dise is no part of[\s\S]*the parts are dice, bce, focal"):
        narrow({"mix": MIX}, {"mix": ["dise", "focal"]})


def test_the_axes_of_a_mixture_give_any_weights_and_uniform_ones_the_uniform_density() -> None:
    assert list(independent({"lr": Float(0, 1), "mix": MIX})) == ["lr", "mix[dice]", "mix[bce]", "mix[focal]"]
    for weights in [*MIX.grid(5), [0.2, 0.3, 0.5]]:
        assert MIX.of_axes(MIX.on_axes("mix", weights).values()) == pytest.approx(weights, abs=1e-8)
    assert MIX.of_axes([1.0, 1.0, 1.0]) == pytest.approx([1 / 3] * 3)
    rng = np.random.default_rng(0)
    drawn = np.array([MIX.of_axes(rng.uniform(1e-9, 1.0, 3)) for _ in range(4000)])
    assert drawn.sum(axis=1) == pytest.approx(np.ones(4000))
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, and P(w₁ > a) = (1 − a)².
    assert drawn.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert drawn.var(axis=0) == pytest.approx([1 / 18] * 3, abs=0.005)
    assert (drawn[:, 0] > 0.5).mean() == pytest.approx(0.25, abs=0.03)


def test_optuna_searches_every_kind_of_axis_and_records_what_it_proposed() -> None:
    from tune_app.search.study import recorded, suggest_point

    {"lr": Float(1e-4, 1.0, log=True), "depth": Int(1, 4), "kind": Choice(("a", "b")), "mix": MIX, "one": Int(2, 2)}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    point = suggest_point(trial, SPACE)
    assert all(SPACE[name].contains(value) for name, value in point.items())
    assert point.keys() == SPACE.keys()
    params, distributions = recorded(SPACE, point)
    assert params.keys() == trial.params.keys() == distributions.keys()
    assert MIX.of_axes([params[name] for name in params if name.startswith("mix")]) == pytest.approx(point["mix"])


def test_every_kind_of_axis_is_a_domain_of_tune() -> None:
    from ray import tune
    from ray.tune.search.variant_generator import generate_variants

    from search_spaces._tune import domains

    {"lr": Float(1e-4, 1.0, log=True), "depth": Int(1, 4), "kind": Choice(("a", "b")), "mix": MIX, "one": Int(2, 2)}
    found = domains(SPACE)
    assert isinstance(found["lr"], tune.search.sample.Float)
    assert (found["depth"].lower, found["depth"].upper, found["one"]) == (1, 5, 2)
    ((_, point),) = generate_variants(found)
    assert all(SPACE[name].contains(value) for name, value in point.items())
