"""Every weighting formula against plain Python, the published numbers, and its limits."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from trainables.errors import SettingsError
from trainables.losses.weights import (
    STATIC_RULES,
    class_balanced_weights,
    comparable_counts,
    effective_number,
    log_count_offsets,
    mitigation,
    power_weights,
    static_vector,
)

N = [3537231.0, 1781370.0, 1662007.0, 653198.0, 536370.0]
KNOWN = [29_640_000.0] * 5
UNEQUAL = [29e6, 12e6, 7e6, 20e6, 3e6]


def t(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "published"),
    [
        ("uniform", [1, 1, 1, 1, 1]),
        ("inv_freq", [0.152, 0.301, 0.323, 0.821, 1]),
        ("sqrt_inv", [0.389, 0.549, 0.568, 0.906, 1]),
        ("log_inv", [0.177, 0.322, 0.343, 0.827, 1]),
        ("effective_num", [1, 1, 1, 1, 1]),
    ],
)
def test_static_vectors_are_the_published_ones_to_three_decimals(rule: str, published: list[float]) -> None:
    assert [round(w, 3) for w in static_vector(rule, t(N)).tolist()] == published


@pytest.mark.parametrize("rule", STATIC_RULES)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_static_vectors_equal_the_plain_formulas(rule: str, scale: float) -> None:
    n = [x * scale for x in N]
    formulas = {
        "uniform": lambda n: 1.0,
        "inv_freq": lambda n: 1 / n,
        "sqrt_inv": lambda n: 1 / math.sqrt(n),
        "log_inv": lambda n: 1 / math.log(1 + n / sum(N) / scale),
        "effective_num": lambda n: (1 - 0.999) / (1 - 0.999**n),
    }
    raw = [formulas[rule](x) for x in n]
    expected = [w / max(raw) for w in raw]
    assert static_vector(rule, t(n)).tolist() == pytest.approx(expected, rel=1e-9)


def test_log_inv_uses_the_share_among_positives_and_not_among_known_voxels() -> None:
    with_f = [1 / math.log(1 + n / k) for n, k in zip(N, KNOWN, strict=True)]
    ours = static_vector("log_inv", t(N)).tolist()
    assert [round(w / max(with_f), 3) for w in with_f] == [0.159, 0.307, 0.329, 0.823, 1]
    assert ours[0] == pytest.approx(0.177, abs=5e-4)


@pytest.mark.parametrize(("kappa", "rule"), [(0.0, "uniform"), (0.5, "sqrt_inv"), (1.0, "inv_freq")])
def test_published_vectors_lie_on_the_kappa_curve(kappa: float, rule: str) -> None:
    assert power_weights(t(N), kappa).tolist() == pytest.approx(static_vector(rule, t(N)).tolist(), rel=1e-12)


def test_unknown_static_rule_lists_the_choices() -> None:
    with pytest.raises(SettingsError, match=r"weights=inverse.*uniform, inv_freq.*log_inv"):
        static_vector("inverse", t(N))


@pytest.mark.parametrize("b", [1e-8, 1e-6, 1e-4, 1e-2, 0.5])
def test_class_balanced_equals_sixty_digit_arithmetic_and_sums_to_the_number_of_classes(b: float) -> None:
    n = [3, 10, 200, 40_000, 3_000_000]
    with localcontext() as context:
        context.prec = 60
        inverse = [Decimal(b) / (1 - (1 - Decimal(b)) ** k) for k in n]
        expected = [float(w * len(n) / sum(inverse)) for w in inverse]
    weights = class_balanced_weights(t([float(k) for k in n]), b).tolist()
    assert weights == pytest.approx(expected, rel=1e-12)
    assert sum(weights) == pytest.approx(5, rel=1e-12)


@pytest.mark.parametrize(
    ("b", "published"), [(1e-6, [0.65, 0.76, 0.78, 1.31, 1.51]), (1e-7, [0.33, 0.60, 0.64, 1.55, 1.88])]
)
def test_class_balanced_at_the_published_counts(b: float, published: list[float]) -> None:
    assert class_balanced_weights(t(N), b).tolist() == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("beta", [0.99, 0.999, 0.9999])
def test_published_betas_are_uniform_at_voxel_counts(beta: float) -> None:
    assert class_balanced_weights(t(N), 1 - beta).tolist() == pytest.approx([1.0] * 5, abs=1e-15)


def test_class_balanced_limits_are_uniform_and_inverse_frequency() -> None:
    inverse = [1 / n for n in N]
    expected = [5 * w / sum(inverse) for w in inverse]
    assert class_balanced_weights(t(N), 1e-15).tolist() == pytest.approx(expected, rel=1e-6)
    assert class_balanced_weights(t(N), 1.0).tolist() == [1.0] * 5


def test_effective_number_limits() -> None:
    assert effective_number(t([1e6]), 1e-15).item() == pytest.approx(1e6, rel=1e-6)
    assert effective_number(t([1e9]), 1e-3).item() == pytest.approx(1e3, rel=1e-12)
    assert effective_number(t([1.0]), 1e-8).item() == pytest.approx(1.0, rel=1e-12)


def test_log_count_offsets_equal_the_plain_formula_and_do_not_see_the_scale() -> None:
    mean = statistics.fmean(math.log(n) for n in N)
    expected = [math.log(n) - mean for n in N]
    assert log_count_offsets(t(N)).tolist() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(log_count_offsets(t(N) * 1e-3), log_count_offsets(t(N)))


@pytest.mark.parametrize("n", [N, N[:4], N[:1]])
@pytest.mark.parametrize("p", [0.0, 0.8, 2.0])
def test_mitigation_equals_the_plain_formula_also_for_an_even_number(n: list[float], p: float) -> None:
    expected = [(statistics.median(n) / x) ** p for x in n]
    assert mitigation(t(n), p).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seen", [[True, False, True, True, False], [False] * 5])
def test_unseen_classes_are_neutral_and_left_out_of_medians_means_and_sums(seen: list[bool]) -> None:
    mask = torch.tensor(seen)
    n, known = t(N) * mask, t(UNEQUAL) * mask
    part, part_known = t(N)[mask], t(UNEQUAL)[mask]
    rules = {
        "mitigation": (lambda n, k: mitigation(n, 0.8), 1.0),
        "class_balanced": (lambda n, k: class_balanced_weights(n, 1e-6), 1.0),
        "log_counts": (lambda n, k: log_count_offsets(n), 0.0),
        "power": (lambda n, k: power_weights(n, 1.0), 1.0),
        "log_inv": (lambda n, k: static_vector("log_inv", n), 1.0),
        "effective_num": (lambda n, k: static_vector("effective_num", n), 1.0),
        "share": (lambda n, k: mitigation(comparable_counts(n, k, "share"), 1.0), 1.0),
    }
    for name, (rule, neutral) in rules.items():
        values = rule(n, known)
        assert values[~mask].tolist() == [neutral] * int((~mask).sum()), name
        if mask.any():
            torch.testing.assert_close(values[mask], rule(part, part_known), msg=name)


def test_share_undoes_unequal_annotation_and_equals_counts_where_annotation_is_equal() -> None:
    assert comparable_counts(t(N), t(KNOWN), "share").tolist() == pytest.approx(N, rel=1e-12)
    share = comparable_counts(t(N), t(UNEQUAL), "share")
    f = [n / k for n, k in zip(N, UNEQUAL, strict=True)]
    assert (share / share[0]).tolist() == pytest.approx([x / f[0] for x in f], rel=1e-12)
    assert comparable_counts(t(N), t(UNEQUAL), "count").tolist() == N
