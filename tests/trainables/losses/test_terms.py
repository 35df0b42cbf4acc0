"""The terms of a composite loss: against loops in float64, MONAI, identities, and cropping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from trainables.errors import SettingsError
from trainables.losses import WeightedTversky, build

CLASSES = ("a", "b")


def batch(seed: int = 0, unknown: float = 0.3, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits and target (3, 2, 6, 5), some of it not annotated."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, 6, 5, generator=generator) * scale
    target = (torch.rand(logits.shape, generator=generator) < 0.3).float()
    return logits, target.masked_fill(torch.rand(logits.shape, generator=generator) < unknown, math.nan)


def composite(**params: float) -> WeightedTversky:
    return build("composite", params, CLASSES)


def value(logits: Tensor, target: Tensor, **params: float) -> float:
    return composite(**params)(logits, target)[0].item()


def voxels(logits: Tensor, target: Tensor, index: int) -> list[tuple[float, float]]:
    """(probability, truth) of every annotated voxel of a class."""
    z, t = (x[:, index].flatten().double().tolist() for x in (logits, target))
    return [(1 / (1 + math.exp(-a)), b) for a, b in zip(z, t) if not math.isnan(b)]


def focal_by_hand(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, on_fg: float = 1.0, on_bg: float = 1.0
) -> float:
    means = []
    for index in range(2):
        losses = [
            -alpha * on_fg * (1 - p) ** gamma * math.log(p) if t else -(1 - alpha) * on_bg * p**gamma * math.log(1 - p)
            for p, t in voxels(logits, target, index)
        ]
        means.append(sum(losses) / len(losses))
    return sum(means) / 2


def dice_by_hand(logits: Tensor, target: Tensor, power: float) -> float:
    values = []
    for index in range(2):
        found = voxels(logits, target, index)
        overlap, both = sum(p * t for p, t in found), sum(p + t for p, t in found)
        values.append(1 - ((2 * overlap + 1e-6) / (both + 1e-6)) ** power)
    return sum(values) / 2


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9), (5.0, 0.0)])
def test_focal_equals_its_formula(gamma: float, alpha: float) -> None:
    logits, target = batch()
    ours = value(logits, target, focal=1.0, focal_gamma=gamma, focal_alpha=alpha)
    assert ours == pytest.approx(focal_by_hand(logits, target, gamma, alpha), rel=1e-5)


def test_weights_multiply_the_loss_of_the_voxels_that_they_name() -> None:
    logits, target = batch()
    for on_fg, on_bg in ((3.0, 1.0), (1.0, 5.0), (0.0, 1.0)):
        ours = value(logits, target, focal=1.0, weight_on_fg_voxels=on_fg, weight_on_bg_voxels=on_bg)
        assert ours == pytest.approx(focal_by_hand(logits, target, 2.0, 0.25, on_fg, on_bg), rel=1e-5)
    missed = torch.full((1, 2, 4, 4), -9.0)  # all of it foreground
    truth = torch.ones_like(missed)
    assert value(missed, truth, focal=1.0, weight_on_fg_voxels=4.0) == pytest.approx(
        4 * value(missed, truth, focal=1.0), rel=1e-5
    )
    assert value(missed, truth, focal=1.0, weight_on_bg_voxels=4.0) == value(missed, truth, focal=1.0)


def test_focal_without_focus_is_half_the_cross_entropy() -> None:
    logits, target = batch(unknown=0.0)
    ours = value(logits, target, focal=2.0, focal_gamma=0.0, focal_alpha=0.5)
    reference = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert ours == pytest.approx(float(reference), rel=1e-5)
    assert value(logits, target, cross_entropy=1.0) == pytest.approx(float(reference), rel=1e-5)


def test_focal_equals_monai() -> None:
    from monai.losses import FocalLoss

    logits, target = batch(unknown=0.0)
    reference = FocalLoss(gamma=2.0, alpha=0.25, include_background=True)(logits, target)
    assert value(logits, target, focal=1.0) == pytest.approx(float(reference), rel=1e-5)


def test_dice_and_its_root_equal_their_formulas_and_dice_is_tversky_of_one_half() -> None:
    logits, target = batch()
    assert value(logits, target, dice=1.0) == pytest.approx(dice_by_hand(logits, target, 1.0), rel=1e-5)
    assert value(logits, target, sqrt_dice=1.0) == pytest.approx(dice_by_hand(logits, target, 0.5), rel=1e-5)
    assert value(logits, target, tversky=1.0) == pytest.approx(value(logits, target, dice=1.0), rel=1e-5)


def test_the_loss_is_the_sum_of_its_weighted_terms_and_each_is_a_figure() -> None:
    logits, target = batch()
    weights = {"tversky": 0.3, "cross_entropy": 0.9, "focal": 0.7, "dice": 0.2, "sqrt_dice": 0.1}
    alone = {name: value(logits, target, **{name: 1.0}) for name in weights}
    loss = composite(**weights)
    total, figures = loss(logits, target)
    assert total.item() == pytest.approx(sum(weights[name] * alone[name] for name in weights), rel=1e-5)
    named = dict(zip(loss.figure_names, figures.tolist(), strict=True))
    assert [*named] == ["loss/a", "loss/b", "term/dice", "term/sqrt_dice", "term/focal"]
    for name in ("dice", "sqrt_dice", "focal"):
        assert named[f"term/{name}"] == pytest.approx(alone[name], rel=1e-6)
    assert composite(tversky=1.0).figure_names == ["loss/a", "loss/b"]


def test_a_weight_counts_where_the_term_is_alone_too() -> None:
    logits, target = batch()
    for name in ("tversky", "cross_entropy", "focal", "dice"):
        assert value(logits, target, **{name: 3.0}) == pytest.approx(3 * value(logits, target, **{name: 1.0}), rel=1e-6)


def test_what_is_not_annotated_is_as_if_it_were_cut_off() -> None:
    params = {"focal": 0.7, "tversky": 0.3, "sqrt_dice": 0.2}
    logits, target = batch(unknown=0.0)
    target[..., 3:] = math.nan
    logits[..., 3:] = math.inf
    ours = logits.clone().requires_grad_()
    composite(**params)(ours, target)[0].backward()
    assert composite(**params)(logits, target)[0].item() == pytest.approx(
        value(logits[..., :3], target[..., :3], **params), rel=1e-6
    )
    assert ours.grad is not None
    assert bool((ours.grad[..., 3:] == 0).all())
    assert bool(ours.grad.isfinite().all())


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_value_and_slope_are_finite_and_right_for_any_logit(gamma: float) -> None:
    logits = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0], dtype=torch.float32).view(1, 1, 1, 5).repeat(1, 2, 2, 1)
    target = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand_as(logits).clone()
    logits.requires_grad_()
    total, _ = composite(focal=1.0, focal_gamma=gamma)(logits, target)
    total.backward()
    assert math.isfinite(total.item())
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[0, 0, 0, 4].item() > 0 > logits.grad[0, 0, 1, 0].item()


def test_sums_of_parts_make_the_loss_and_the_gradient_of_the_whole() -> None:
    loss = composite(focal=0.7, tversky=0.3, cross_entropy=0.4, sqrt_dice=0.2)
    logits, target = batch()
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, figures = loss(whole, target)
    total.backward()
    sums = torch.stack([loss.totals(z, t)[0] for z, t in zip(parts.split(1), target.split(1))]).sum(0)
    again, same = loss.of_totals(sums)
    again.backward()
    torch.testing.assert_close((again, same), (total, figures), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-5, atol=1e-8)


def test_one_graph_for_all_weights_and_numbers_of_the_same_terms() -> None:
    torch._dynamo.reset()
    counter, loss = CompileCounter(), composite(focal=0.7, tversky=0.3)
    compiled = torch.compile(loss.with_counts, backend=counter, fullgraph=True, dynamic=False)
    logits, target = batch()
    for params in ({"focal": 0.7, "tversky": 0.3}, {"focal": 0.2, "tversky": 0.9, "focal_gamma": 1.0}):
        loss.reset("composite", params)
        torch.testing.assert_close(compiled(logits, target)[0], loss(logits, target)[0])
        assert compiled(logits, target)[0].item() == pytest.approx(value(logits, target, **params), rel=1e-6)
    assert counter.frame_count == 1


def test_a_saved_loss_is_restored_terms_and_all() -> None:
    logits, target = batch()
    first = composite(focal=0.7, focal_gamma=1.0, focal_alpha=0.6, weight_on_fg_voxels=2.0)
    second = build("static", {"weights": [1.0, 1.0]}, CLASSES)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(logits, target)[0], first(logits, target)[0])
    assert second.figure_names == first.figure_names


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "no term has a weight above 0"),
        ({"focal": 0.0}, "no term has a weight above 0"),
        ({"focal": -1.0}, "must be a number of at least 0"),
        ({"focal": 1.0, "focal_alpha": 1.5}, "must be at most 1"),
        ({"focal": 1.0, "gamma": 2.0}, "composite has no such parameter"),
        ({"focal": math.nan}, "must be a number"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        composite(**params)
