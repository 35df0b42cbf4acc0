"""The terms for thin surfaces: against loops in float64, MONAI, published figures, and cropping."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from trainables.errors import SettingsError
from trainables.losses import build
from trainables.losses.terms import NUMBERS, TERMS, Maps, soft_skeleton, term_sums
from trainables.losses.tversky import over_batch, plane_sums

CLASSES = ("a", "b")
SHAPE = (2, 2, 4, 5, 6)
Volume = dict[tuple[int, ...], float]
"""Values of the annotated voxels of one class of one sample."""
EVERY = {name: 0.1 * (index + 1) for index, name in enumerate(TERMS)}


def batch(seed: int = 0, unknown: float = 0.25) -> tuple[Tensor, Tensor, Maps]:
    """Logits, target (some of it not annotated) and maps of SHAPE; the maps are noise."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SHAPE, generator=generator) * 2
    target = (torch.rand(SHAPE, generator=generator) < 0.4).float()
    maps = Maps(
        torch.randn(SHAPE, generator=generator) * 4,
        torch.where(torch.rand(SHAPE, generator=generator) < 0.5, target, 0.0),
    )
    return logits, target.masked_fill(torch.rand(SHAPE, generator=generator) < unknown, math.nan), maps


def value(logits: Tensor, target: Tensor, maps: Maps | None = None, **params: float) -> float:
    return build("composite", params, CLASSES)(logits, target, maps)[0].item()


def by_loop(logits: Tensor, target: Tensor, maps: Maps, of_class: Callable[..., float]) -> float:
    """Mean over the classes of of_class(p, t, φ, skeleton), each a list of `Volume`s, one for each sample."""
    p, known = torch.sigmoid(logits.double()), ~target.isnan()

    def volumes(x: Tensor, index: int) -> list[Volume]:
        voxels = list(itertools.product(*map(range, x.shape[2:])))
        return [{v: float(x[(n, index, *v)]) for v in voxels if known[(n, index, *v)]} for n in range(len(x))]

    return sum(of_class(*(volumes(x, c) for x in (p, target, *maps))) for c in range(2)) / 2


def pairs(*volumes: list[Volume]) -> list[tuple[float, ...]]:
    """The values of every annotated voxel of all samples."""
    return [tuple(volume[v] for volume in sample) for sample in zip(*volumes) for v in sample[0]]


def cube(volume: Volume, at: tuple[int, ...]) -> Iterator[float]:
    """Annotated values of the 3³ voxels around one."""
    for step in itertools.product((-1, 0, 1), repeat=3):
        if (near := tuple(a + b for a, b in zip(at, step))) in volume:
            yield volume[near]


def cross(volume: Volume, at: tuple[int, ...]) -> Iterator[float]:
    """Annotated values of a voxel and its six neighbours."""
    for axis, step in itertools.product(range(3), (-1, 0, 1)):
        near = tuple(a + step * (i == axis) for i, a in enumerate(at))
        if near in volume:
            yield volume[near]


def skeleton_by_loop(volume: Volume, iterations: int) -> Volume:
    found = dict.fromkeys(volume, 0.0)
    for _ in range(iterations + 1):
        smaller = {v: min(cross(volume, v)) for v in volume}
        for v in volume:
            ridge = max(0.0, volume[v] - max(cube(smaller, v)))
            found[v] += max(0.0, ridge - found[v] * ridge)
        volume = smaller
    return found


def variance_by_loop(p: list[Volume], *_: object) -> float:
    values = [x for (x,) in pairs(p)]
    middle = sum(values) / len(values)
    return sum((x - middle) ** 2 for x in values) / len(values)


def entropy_by_loop(p: list[Volume], *_: object) -> float:
    values = [x for (x,) in pairs(p)]
    return sum(-x * math.log(x) - (1 - x) * math.log(1 - x) for x in values) / len(values)


def published_by_loop(p: list[Volume], *_: object) -> float:
    return (1 - variance_by_loop(p)) ** 2 + max(0.0, 0.5 - entropy_by_loop(p))


def connectivity_by_loop(p: list[Volume], t: list[Volume], *_: object) -> float:
    squares = [(max(cube(a, v)) - max(cube(b, v))) ** 2 for a, b in zip(p, t) for v in a]
    return sum(squares) / len(squares)


def cldice_by_loop(p: list[Volume], t: list[Volume], *_: object) -> float:
    of_p, of_t = ([skeleton_by_loop(volume, 2) for volume in volumes] for volumes in (p, t))
    precision = (1 + sum(s * x for s, x in pairs(of_p, t))) / (1 + sum(s for (s,) in pairs(of_p)))
    recall = (1 + sum(s * x for s, x in pairs(of_t, p))) / (1 + sum(s for (s,) in pairs(of_t)))
    return 1 - 2 * precision * recall / (precision + recall)


def band_by_loop(p: list[Volume], t: list[Volume], phi: list[Volume], *_: object) -> float:
    def weight(distance: float) -> float:
        return 1.0 if distance <= 3 else 0.0 if distance >= 5 else (5 - distance) / 2

    losses = [-weight(abs(d)) * math.log(x if y else 1 - x) for x, y, d in pairs(p, t, phi)]
    return sum(losses) / len(losses)


def boundary_by_loop(p: list[Volume], _: object, phi: list[Volume], *__: object) -> float:
    products = [x * d for x, d in pairs(p, phi)]
    return sum(products) / len(products)


def recall_by_loop(p: list[Volume], t: list[Volume], _: object, skeleton: list[Volume]) -> float:
    hit = whole = 0.0
    for x, y, s in zip(p, t, skeleton):
        for v in x:
            weight = 1.0 if s[v] else 0.7 * y[v] * max(cube(s, v))
            hit, whole = hit + weight * x[v], whole + weight
    return 1 - hit / whole


FORMULAS: dict[str, tuple[Callable[..., float], dict[str, float]]] = {
    "variance": (lambda p, *_: 1 - 4 * variance_by_loop(p), {}),
    "variance_published": (published_by_loop, {}),
    "entropy": (entropy_by_loop, {}),
    "connectivity": (connectivity_by_loop, {}),
    "cldice": (cldice_by_loop, {"cldice_iterations": 2}),
    "boundary_band": (band_by_loop, {}),
    "boundary": (boundary_by_loop, {}),
    "skeleton_recall": (recall_by_loop, {"skeleton_tube": 0.7}),
}


@pytest.mark.parametrize("unknown", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("name", FORMULAS)
def test_each_term_equals_its_formula_whatever_is_unknown(name: str, unknown: float) -> None:
    formula, numbers = FORMULAS[name]
    logits, target, maps = batch(unknown=unknown)
    expected = by_loop(logits, target, maps, formula)
    ours = value(logits.masked_fill(target.isnan(), math.nan), target, maps, **{name: 1.0}, **numbers)
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "term"), [(1e-9, 1.08), (0.05, 0.95), (0.1, 0.89), (0.2, 0.836), (0.3, 0.925), (0.4, 0.98), (0.5, 1.0)]
)
def test_the_published_variance_term_cannot_tell_a_perfect_output_from_a_uniform_one(wrong: float, term: float) -> None:
    """60.9 % of the voxels at 1 − a, the others at a: the figures fit entropies in nats, and none in bits."""
    p = torch.tensor([1 - wrong] * 609 + [wrong] * 391, dtype=torch.float64).view(1, 1, 10, 100)
    logits = torch.logit(p).float().repeat(1, 2, 1, 1)
    assert value(logits, torch.zeros_like(logits), variance_published=1.0) == pytest.approx(term, abs=0.006)


def test_the_variance_term_is_1_for_a_uniform_output_and_0_for_a_certain_half() -> None:
    for logits, expected in ((torch.full((1, 2, 4, 4), 0.3), 1.0), (torch.tensor([60.0, -60.0]).repeat(1, 2, 4, 2), 0)):
        assert value(logits, torch.zeros_like(logits), variance=1.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 2, 12, 13), (1, 2, 7, 8, 9)])
def test_cldice_equals_monai(shape: tuple[int, ...]) -> None:
    from monai.losses.cldice import SoftclDiceLoss, soft_skel  # which reduces sample by sample

    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(shape, generator=generator) * 3, (torch.rand(shape, generator=generator) < 0.6).float()
    known = torch.ones_like(target, dtype=torch.bool)
    torch.testing.assert_close(soft_skeleton(logits.sigmoid(), known, 3), soft_skel(logits.sigmoid(), 3))
    reference = SoftclDiceLoss(iter_=3, smooth=1e-12, sigmoid=True)
    expected = sum(float(reference(logits[:, c : c + 1], target[:, c : c + 1])) for c in range(2)) / 2
    assert value(logits, target, cldice=1.0) == pytest.approx(expected, rel=1e-5)


def test_boundary_is_that_of_kervadec_in_monai() -> None:
    from monai.losses import BoundaryLoss

    generator = torch.Generator().manual_seed(2)
    logits, target = torch.randn(1, 2, 8, 9, 10, generator=generator), torch.zeros(1, 2, 8, 9, 10)
    target[0, 0, 3:5] = 1
    target[0, 1, :, 2:6, 4:9] = 1
    reference = BoundaryLoss(include_background=True, sigmoid=True)
    maps = Maps(reference.compute_distance_map(target), target)
    assert value(logits, target, maps, boundary=1.0) == pytest.approx(float(reference(logits, target)), rel=1e-5)


@pytest.mark.parametrize("name", [*FORMULAS, "all"])
def test_what_is_not_annotated_is_as_if_it_were_cut_off(name: str) -> None:
    params = EVERY if name == "all" else {name: 1.0}
    logits, target, maps = batch(unknown=0.0)
    target[..., 4:] = math.nan
    logits[..., 4:] = math.inf
    ours = logits.clone().requires_grad_()
    loss = build("composite", params, CLASSES)
    loss(ours, target, maps)[0].backward()
    cut = Maps(*(x[..., :4] for x in maps))
    inside = logits[..., :4].clone().requires_grad_()
    expected = loss(inside, target[..., :4], cut)[0]
    expected.backward()
    assert loss(logits, target, maps)[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert ours.grad is not None
    assert bool((ours.grad[..., 4:] == 0).all())
    torch.testing.assert_close(ours.grad[..., :4], inside.grad, rtol=1e-4, atol=1e-7)


def test_no_gradient_where_nothing_is_annotated_and_none_without_annotation() -> None:
    loss = build("composite", EVERY, CLASSES)
    logits, target, maps = batch()
    logits.requires_grad_()
    loss(logits, target, maps)[0].backward()
    assert bool((logits.grad[target.isnan()] == 0).all())
    assert bool(logits.grad.isfinite().all())
    nothing = torch.full_like(target, math.nan)
    total, _ = loss(logits, nothing, maps)
    assert total.item() == 0
    assert bool((torch.autograd.grad(total, logits)[0] == 0).all())


@pytest.mark.parametrize("name", FORMULAS)
def test_slopes_are_those_of_differences(name: str) -> None:
    logits, target, maps = batch(seed=3)
    numbers = {number: torch.tensor(usual, dtype=torch.float64) for number, usual in NUMBERS.items()}

    def in_float64(z: Tensor) -> Tensor:
        t, wide = target.double(), Maps(*(x.double() for x in maps))
        sums = over_batch(plane_sums(z, t, torch.zeros(2, dtype=torch.float64)))
        return TERMS[name].value(sums, torch.stack(term_sums(z, t, (name,), numbers, maps=wide))).mean()

    ours = logits.double().requires_grad_()
    in_float64(ours).backward()
    direction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)).double()
    ends = [in_float64(logits.double() + sign * 1e-5 * direction) for sign in (1, -1)]
    assert float((ours.grad * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-5)
    single = logits.clone().requires_grad_()
    build("composite", {name: 1.0}, CLASSES)(single, target, maps)[0].backward()
    torch.testing.assert_close(single.grad.double(), ours.grad, rtol=1e-3, atol=1e-7)


def test_all_terms_are_of_sums_so_that_parts_make_the_loss_and_the_gradient_of_the_whole() -> None:
    loss = build("composite", EVERY | {"tversky": 0.3, "cross_entropy": 0.4}, CLASSES)
    logits, target, maps = batch()
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, figures = loss(whole, target, maps)
    total.backward()
    pieces = zip(parts.split(1), target.split(1), zip(*(x.split(1) for x in maps)))
    again, same = loss.of_totals(torch.stack([loss.totals(z, t, Maps(*m))[0] for z, t, m in pieces]).sum(0))
    again.backward()
    torch.testing.assert_close((again, same), (total, figures), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-4, atol=1e-7)
    named = dict(zip(loss.figure_names, figures.tolist(), strict=True))
    assert [*named][2:] == [f"term/{name}" for name in TERMS]
    assert named["term/entropy"] == pytest.approx(value(logits, target, entropy=1.0), rel=1e-6)


def test_one_graph_for_all_weights_and_numbers_of_the_same_terms() -> None:
    torch._dynamo.reset()
    counter, loss = CompileCounter(), build("composite", EVERY, CLASSES)
    compiled = torch.compile(loss.with_counts, backend=counter, fullgraph=True, dynamic=False)
    logits, target, maps = batch()
    for numbers in ({}, {"band_full": 1.0, "band_end": 2.0, "skeleton_tube": 0.2}):
        loss.reset("composite", {name: 1.0 - weight / 2 for name, weight in EVERY.items()} | numbers)
        torch.testing.assert_close(compiled(logits, target, maps)[0], loss(logits, target, maps)[0])
    assert counter.frame_count == 1


def test_weights_of_foreground_and_background_touch_the_focal_term_alone() -> None:
    logits, target, maps = batch()
    others = {name: 1.0 for name in TERMS if name != "focal"}
    weighted = {"weight_on_fg_voxels": 3.0, "weight_on_bg_voxels": 5.0}
    assert value(logits, target, maps, **others, **weighted) == value(logits, target, maps, **others)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"cldice": 1.0, "cldice_iterations": 2.5}, "counted in whole numbers"),
        ({"boundary_band": 1.0, "band_full": 6.0}, "the band ends at band_full=6"),
        ({"skeleton_recall": 1.0, "skeleton_tube": 2.0}, "must be at most 1"),
    ],
)
def test_bad_numbers_are_refused(params: dict[str, float], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        build("composite", params, CLASSES)
