"""The per-class Tversky core against float64 loops, MONAI, cropping, and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainables.losses import build
from trainables.losses.tversky import compensation, mean_over_annotated, over_batch, plane_sums, tversky_index

CLASSES = ("a", "b", "c")
FAMILY_PARAMS = {
    "static": {"weights": [0.2, 1.0, 3.0]},
    "class_balanced": {"one_minus_beta": 0.01},
    "balanced_softmax": {"tau": 1.5},
    "seesaw": {"p": 0.8, "q": 2.0},
    "tversky": {"fp_weight": 0.3, "fn_weight": 0.9},
}


def random_batch(seed: int = 0, shape: tuple[int, ...] = (2, 3, 6, 5), unknown: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * 2
    target = (torch.rand(shape, generator=generator) < 0.4).float()
    target[torch.rand(shape, generator=generator) < unknown] = math.nan
    return logits, target


def brute_force(logits: Tensor, target: Tensor, loss: torch.nn.Module) -> tuple[float, list[float]]:
    """The formulas of the loss voxel by voxel in Python floats, with the factors of `loss` taken as given."""
    weighted, per_class = [], []
    for c in range(logits.shape[1]):
        tp = sp = st = known = 0.0
        z, t = logits[:, c].double().flatten().tolist(), target[:, c].double().flatten().tolist()
        for zi, ti in zip(z, t, strict=True):
            if math.isnan(ti):
                continue
            p = 1 / (1 + math.exp(-(zi + float(loss.shift[c]))))
            tp, sp, st, known = tp + p * ti, sp + p, st + ti, known + 1
        fp, fn = sp - tp, st - tp
        index = (tp + 1e-6) / (tp + float(loss.fp_weight) * fp + float(loss.fn_weight) * fn + 1e-6)
        share = fp / (fp + fn) if fp + fn else 0.0
        factor = 1 + float(loss.compensation_gate) * share ** float(loss.compensation_exponent)
        per_class.append(1 - index if known else math.nan)
        if known:
            weighted.append(float(loss.weight[c]) * factor * (1 - index))
    return (sum(weighted) / len(weighted) if weighted else 0.0), per_class


@pytest.mark.parametrize("name", FAMILY_PARAMS)
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 3, 4, 5)])
def test_every_family_equals_the_float64_loop_after_its_counts_arrived(name: str, shape: tuple[int, ...]) -> None:
    logits, target = random_batch(1, shape)
    loss = build(name, FAMILY_PARAMS[name], CLASSES, count_update_every=1)
    loss.accumulate_(*loss.count(target))
    loss.end_batch()
    value, per_class = loss(logits, target)
    expected, expected_per_class = brute_force(logits, target, loss)
    assert value.dtype == torch.float32
    assert value.ndim == 0
    assert value.item() == pytest.approx(expected, rel=2e-6)
    assert per_class.tolist() == pytest.approx(expected_per_class, rel=2e-6)


@pytest.mark.parametrize(("fp_weight", "fn_weight"), [(0.6, 0.4), (0.2, 0.7)])
def test_unmasked_equals_monai(fp_weight: float, fn_weight: float) -> None:
    from monai.losses import TverskyLoss

    logits, target = random_batch(2, unknown=0.0)
    peer = TverskyLoss(sigmoid=True, batch=True, smooth_nr=1e-6, smooth_dr=1e-6, alpha=fp_weight, beta=fn_weight)
    loss = build("tversky", {"fp_weight": fp_weight, "fn_weight": fn_weight}, CLASSES)
    assert loss(logits, target)[0].item() == pytest.approx(peer(logits, target).item(), rel=1e-6)


@pytest.mark.parametrize("name", FAMILY_PARAMS)
def test_masking_equals_cropping_in_value_and_gradient(name: str) -> None:
    logits, target = random_batch(3, unknown=0.0)
    loss = build(name, FAMILY_PARAMS[name], CLASSES)
    masked_target = target.clone()
    masked_target[..., 3:] = math.nan
    masked, cropped = logits.clone().requires_grad_(), logits[..., :3].clone().requires_grad_()
    value, _ = loss(masked, masked_target)
    reference, _ = loss(cropped, target[..., :3])
    value.backward()
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), rel=1e-6)
    torch.testing.assert_close(masked.grad[..., :3], cropped.grad)
    assert torch.count_nonzero(masked.grad[..., 3:]) == 0
    assert torch.count_nonzero(masked.grad[..., :3]) > 0


def test_gradient_equals_finite_differences_with_the_compensation_factor_constant() -> None:
    logits, target = random_batch(4, (1, 3, 3, 3))
    shift, weight = torch.tensor([0.3, -0.2, 0.0]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    fp_weight, fn_weight = torch.tensor(0.6), torch.tensor(0.4)

    def value(z: Tensor) -> Tensor:
        sums = over_batch(plane_sums(z, target, shift))
        return mean_over_annotated(weight * (1 - tversky_index(sums, fp_weight, fn_weight)), sums.known)

    assert torch.autograd.gradcheck(value, (logits.double().requires_grad_(),))
    sums = over_batch(plane_sums(logits.double().requires_grad_(), target, shift))
    assert not compensation(sums, torch.tensor(1.0), torch.tensor(2.0)).requires_grad


@pytest.mark.parametrize("name", FAMILY_PARAMS)
def test_class_without_annotation_leaves_sum_and_count(name: str) -> None:
    logits, target = random_batch(5)
    target[:, 1] = math.nan
    loss = build(name, FAMILY_PARAMS[name], CLASSES)
    z = logits.clone().requires_grad_()
    value, per_class = loss(z, target)
    value.backward()
    assert value.item() == pytest.approx(brute_force(logits, target, loss)[0], rel=2e-6)
    assert math.isnan(per_class[1])
    assert torch.isfinite(z.grad).all()
    assert torch.count_nonzero(z.grad[:, 1]) == 0


@pytest.mark.parametrize("name", FAMILY_PARAMS)
def test_batch_without_annotation_has_loss_zero_and_gradient_zero(name: str) -> None:
    logits, target = random_batch(6)
    loss = build(name, FAMILY_PARAMS[name], CLASSES, count_update_every=1)
    z = logits.requires_grad_()
    value, per_class = loss(z, torch.full_like(target, math.nan))
    value.backward()
    loss.accumulate_(*loss.count(torch.full_like(target, math.nan)))
    loss.end_batch()
    assert value.item() == 0.0
    assert torch.isnan(per_class).all()
    assert torch.count_nonzero(z.grad) == 0
    assert torch.isfinite(loss.weight).all()
    assert torch.isfinite(loss.shift).all()


def test_class_annotated_but_absent_stays_and_its_prediction_is_pushed_down() -> None:
    logits, target = random_batch(7, unknown=0.0)
    target[:, 0] = 0.0
    loss = build("static", {"weights": [1, 1, 1]}, CLASSES)
    z = logits.clone().requires_grad_()
    value, per_class = loss(z, target)
    value.backward()
    assert per_class[0].item() == pytest.approx(1.0, abs=1e-6)
    assert value.item() == pytest.approx(per_class.mean().item(), rel=1e-6)
    assert (z.grad[:, 0] > 0).all()


def test_nan_and_infinite_logits_outside_the_annotation_do_no_harm() -> None:
    logits, target = random_batch(8)
    loss = build("seesaw", {"p": 1.0, "q": 2.0}, CLASSES)
    expected = loss(logits, target)[0]
    broken = logits.clone()
    unknown = torch.isnan(target)
    broken[unknown] = torch.where(torch.arange(int(unknown.sum())) % 2 == 0, math.nan, math.inf)
    z = broken.requires_grad_()
    value, _ = loss(z, target)
    value.backward()
    assert value.item() == expected.item()
    assert torch.isfinite(z.grad).all()


def test_perfect_and_opposite_predictions_are_the_limits() -> None:
    _, target = random_batch(9)
    known = torch.nan_to_num(target)
    loss = build("static", {"weights": [1, 1, 1]}, CLASSES)
    assert loss((2 * known - 1) * 50, target)[0].item() == pytest.approx(0.0, abs=1e-6)
    assert loss((1 - 2 * known) * 50, target)[0].item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 1, 300, 300, dtype=dtype)
    target = torch.ones(1, 1, 300, 300)
    loss = build("static", {"weights": [1.0]}, ["a"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = loss(logits, target)
    # TP = FN = 45 000: float16 would overflow and bfloat16 would stop counting at 256.
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1 - 1 / 1.4, rel=1e-6)


def test_identities_between_families() -> None:
    logits, target = random_batch(10)

    def value(name: str, params: dict) -> float:
        loss = build(name, params, CLASSES, count_update_every=1)
        loss.accumulate_(*loss.count(target))
        loss.end_batch()
        return loss(logits, target)[0].item()

    uniform = value("static", {"weights": [1, 1, 1]})
    assert value("balanced_softmax", {"tau": 0}) == uniform
    assert value("tversky", {"fp_weight": 0.6, "fn_weight": 0.4}) == uniform
    assert value("class_balanced", {"one_minus_beta": 1.0}) == pytest.approx(uniform, rel=1e-6)
    # q = 0 makes the compensation 2 for every class; p = 0 switches mitigation off.
    assert value("seesaw", {"p": 0, "q": 0}) == pytest.approx(2 * uniform, rel=1e-6)
    assert value("static", {"weights": [2, 2, 2]}) == pytest.approx(2 * uniform, rel=1e-6)


def test_dice_is_tversky_at_one_half_each() -> None:
    logits, target = random_batch(11, unknown=0.0)
    p = torch.sigmoid(logits)
    axes = (0, 2, 3)
    soft_dice = (2 * (p * target).sum(axes)) / (p.sum(axes) + target.sum(axes))
    loss = build("tversky", {"fp_weight": 0.5, "fn_weight": 0.5}, CLASSES)
    assert loss(logits, target)[0].item() == pytest.approx((1 - soft_dice).mean().item(), rel=1e-5)
