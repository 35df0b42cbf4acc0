"""Softmax cross-entropy with class weights and label smoothing: against loops in float64 and against torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import cross_entropy, one_hot

from trainables.errors import SettingsError
from trainables.losses import WeightedTversky, build

CLASSES = ("a", "b", "c", "d")
WEIGHTS = [0.7, 1.1, 0.8, 2.1]


def batch(seed: int = 0, samples: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, 4, 1, 1, 1), target of the same shape, and the classes (N,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, 4, 1, 1, 1, generator=generator) * 3
    truth = torch.randint(4, (samples,), generator=generator)
    return logits, one_hot(truth, 4).float().view(logits.shape), truth


def softmax(weights: list[float] | None = None, **params: Any) -> WeightedTversky:
    return build("cross_entropy", {"weights": weights or [1.0] * 4, **params}, CLASSES)


def value(logits: Tensor, target: Tensor, **params: Any) -> float:
    return softmax(**params)(logits, target)[0].item()


def by_hand(logits: Tensor, truth: Tensor, weights: list[float], epsilon: float) -> float:
    """The seed's formula, sample by sample."""
    cost = total = 0.0
    for row, y in zip(logits.flatten(1).double().tolist(), truth.tolist()):
        scale = math.log(sum(math.exp(z) for z in row))
        shares = [1 - epsilon if c == y else epsilon / 3 for c in range(4)]
        cost += weights[y] * sum(q * (scale - z) for q, z in zip(shares, row))
        total += weights[y]
    return cost / total


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("weights", [[1.0] * 4, WEIGHTS, [0.0, 1.0, 1.0, 1.0]])
def test_both_formulas_are_what_they_are_called(weights: list[float], epsilon: float) -> None:
    logits, target, truth = batch()
    given: dict[str, Any] = {"weights": weights, "epsilon": epsilon}
    assert value(logits, target, **given) == pytest.approx(by_hand(logits, truth, weights, epsilon), rel=1e-5)
    of_torch = cross_entropy(logits.flatten(1), truth, weight=torch.tensor(weights), label_smoothing=epsilon)
    assert value(logits, target, **given, smoothing="torch") == pytest.approx(of_torch.item(), rel=1e-5)


def test_without_weights_the_formulas_differ_by_what_they_call_epsilon_and_with_weights_for_good() -> None:
    logits, target, truth = batch()
    seed = value(logits, target, epsilon=0.05)
    assert seed == pytest.approx(cross_entropy(logits.flatten(1), truth, label_smoothing=0.05 * 4 / 3).item(), rel=1e-5)
    assert seed == pytest.approx(value(logits, target, epsilon=0.05 * 4 / 3, smoothing="torch"), rel=1e-5)
    weighted = [
        value(logits, target, weights=WEIGHTS, epsilon=0.05),
        value(logits, target, weights=WEIGHTS, epsilon=0.05 * 4 / 3, smoothing="torch"),
    ]
    assert abs(weighted[0] - weighted[1]) > 0.01


def test_a_common_factor_of_the_weights_changes_nothing() -> None:
    logits, target, _ = batch()
    twice = value(logits, target, weights=[2 * w for w in WEIGHTS], epsilon=0.05)
    assert twice == pytest.approx(value(logits, target, weights=WEIGHTS, epsilon=0.05), rel=1e-6)


def test_a_sample_without_a_label_or_with_two_counts_nowhere() -> None:
    logits, target, truth = batch()
    target[0], target[1] = math.nan, torch.tensor([1.0, 1.0, 0.0, 0.0]).view(4, 1, 1, 1)
    loss = softmax(WEIGHTS, epsilon=0.05)
    found, _, positive, known = loss.with_counts(logits, target)
    assert found.item() == pytest.approx(by_hand(logits[2:], truth[2:], WEIGHTS, 0.05), rel=1e-5)
    assert positive.tolist() == [int((truth[2:] == c).sum()) for c in range(4)]
    assert known.tolist() == [10.0] * 4


def test_a_batch_without_labels_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 4, 1, 1, 1, requires_grad=True)
    loss, _ = softmax()(logits, torch.full_like(logits, math.nan))
    loss.backward()
    assert logits.grad is not None
    assert (loss.item(), logits.grad.abs().sum().item()) == (0.0, 0.0)


def test_parts_of_a_batch_pool_into_the_batch() -> None:
    """Though each part has other classes, so another sum of weights."""
    logits, target, _ = batch()
    loss = softmax(WEIGHTS, epsilon=0.05)
    parts = [loss.totals(z, t)[0] for z, t in zip(logits.split(5), target.split(5))]
    whole, pooled = loss(logits, target), loss.of_totals(torch.stack(parts).sum(0))
    torch.testing.assert_close(pooled, whole)
    means = torch.stack([loss(z, t)[0] for z, t in zip(logits.split(5), target.split(5))]).mean()
    assert abs(means.item() - whole[0].item()) > 1e-3


def test_training_figures_are_recalls_over_all_batches() -> None:
    loss, right, seen = softmax(), [0] * 4, [0] * 4
    rows = []
    for seed in range(3):
        logits, target, truth = batch(seed, samples=3)
        rows.append(loss(logits, target)[1])
        for y, guess in zip(truth.tolist(), logits.flatten(1).argmax(1).tolist()):
            seen[y] += 1
            right[y] += y == guess
    found = loss.training_figures(torch.stack(rows).mean(0).tolist())
    recalls = [r / n for r, n in zip(right, seen) if n]
    assert found["train_balanced_accuracy"] == pytest.approx(sum(recalls) / len(recalls), rel=1e-6)
    assert found["train_accuracy"] == pytest.approx(sum(right) / 9, rel=1e-6)


def test_every_weighting_and_smoothing_is_one_graph() -> None:
    logits, target, _ = batch()
    loss, counter = softmax(), CompileCounter()
    step = torch.compile(lambda z, t: loss.with_counts(z, t), backend=counter, fullgraph=True, dynamic=False)
    found = []
    for params in ({"weights": [1.0] * 4}, {"weights": WEIGHTS, "epsilon": 0.05, "smoothing": "torch"}):
        loss.reset("cross_entropy", params)
        found.append((step(logits, target)[0].item(), value(logits, target, **params)))
    assert counter.frame_count == 1
    assert [a for a, _ in found] == pytest.approx([b for _, b in found])


def test_a_state_restores_weights_and_smoothing() -> None:
    logits, target, _ = batch()
    saved, other = softmax(WEIGHTS, epsilon=0.1), softmax()
    other.load_state_dict(saved.state_dict())
    assert other(logits, target)[0].item() == saved(logits, target)[0].item()


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"weights": [1.0]}, "weights"),
        ({"weights": [1.0] * 4, "epsilon": 1.0}, "epsilon"),
        ({"weights": [1.0] * 4, "smoothing": "keras"}, "seed, torch"),
    ],
)
def test_what_cannot_be_is_refused(params: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        build("cross_entropy", params, CLASSES)
