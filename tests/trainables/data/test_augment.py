"""Augmentation identities: what mirrors, transposes and rotations must do to EM and labels alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainables.data import PackedBatch, augment
from trainables.data.augment import centre, plane_map, resample_plane
from trainables.data.patch import context_size

PATCH = (1, 16, 16)
FLAGS = ("mirror_y", "mirror_x", "transpose")


def batch_of(em: torch.Tensor, labels: torch.Tensor | None = None, **draws: float) -> PackedBatch:
    n = em.shape[0]
    values = {name: torch.full((n,), float(value)) for name, value in draws.items()}
    return PackedBatch(em, em if labels is None else labels, torch.zeros(n, dtype=torch.int64), values)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(1, 255, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def run(em: torch.Tensor, patch=PATCH, *, my=0, mx=0, t=0, angle: float | None = None, labels=None):
    turn = {} if angle is None else {"angle": angle}
    return augment(batch_of(em, labels, mirror_y=my, mirror_x=mx, transpose=t, **turn), patch)


@pytest.mark.parametrize("angle", [None, 0.0])
def test_mirror_and_transpose_are_flips_and_swaps(angle):
    em = noise(3, 1, 2, 24, 24)
    inner = centre(em, 16, 16)
    cases = [({}, inner), ({"my": 1}, inner.flip(-2)), ({"mx": 1}, inner.flip(-1)), ({"t": 1}, inner.mT)]
    for draws, expected in cases:
        for result in run(em, angle=angle, **draws):
            assert torch.equal(result, expected)


def test_mirror_twice_is_nothing():
    em = noise(2, 1, 1, 16, 16)
    once, _ = run(em, my=1, mx=1)
    assert not torch.equal(once, em)
    assert torch.equal(run(once, my=1, mx=1)[0], em)


@pytest.mark.parametrize("quarters", [1, 2, -1])
def test_quarter_turns_equal_rot90(quarters):
    em = noise(2, 1, 3, 24, 24)
    expected = torch.rot90(centre(em, 16, 16), -quarters, dims=(-2, -1))
    for result in run(em, angle=quarters * math.pi / 2):
        assert torch.equal(result, expected)


def test_em_and_labels_turn_together():
    """A thresholded smooth image turned as EM equals its mask turned as labels, but for voxels on the edge."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    image = (127 + 120 * torch.sin(x / 9) * torch.cos(y / 13)).round().to(torch.uint8)[None, None, None]
    em, labels = run(image, (1, 64, 64), my=1, t=1, angle=0.7, labels=(image > 127).to(torch.uint8) * 5)
    assert set(labels.unique().tolist()) == {0, 5}
    clear = (em.to(torch.int64) - 127).abs() > 12
    assert clear.float().mean() > 0.7
    assert torch.equal((em > 127)[clear], (labels == 5)[clear])


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 133.3, 180])
@pytest.mark.parametrize("patch", [(1, 16, 16), (1, 15, 15), (2, 16, 24), (1, 256, 256)])
def test_no_blank_corner_at_any_angle(patch, degrees):
    """The four corners of the patch land inside the context, so every voxel does; noise without zeros stays so."""
    size = context_size(patch, rotate=True, transpose=True)
    em = noise(1, 1, *size)
    result, labels = run(em, patch, angle=math.radians(degrees), t=1)
    assert result.shape == (1, 1, *patch)
    assert result.min() > 0
    assert labels.min() > 0
    corners = torch.tensor([[y, x] for y in (-1, 1) for x in (-1, 1)]) * (torch.tensor(patch[1:]) - 1) / 2
    turned = plane_map(*torch.ones(3, 1), torch.tensor([math.radians(degrees)]))[0] @ corners.T
    limit = (torch.tensor(size[1:])[:, None] - 1) / 2
    assert (turned.abs() <= limit).all()


def test_bilinear_against_float64_brute_force():
    em = noise(1, 1, 1, 24, 24)
    angle = 0.4
    result = run(em, angle=angle)[0][0, 0, 0].numpy()
    source = em[0, 0, 0].numpy().astype(np.float64)
    for i, j in [(0, 0), (3, 11), (8, 8), (15, 15), (15, 0)]:
        y, x = i - 7.5, j - 7.5
        row = math.cos(angle) * y - math.sin(angle) * x + 11.5
        column = math.sin(angle) * y + math.cos(angle) * x + 11.5
        a, b = int(row), int(column)
        f, g = row - a, column - b
        expected = (1 - f) * ((1 - g) * source[a, b] + g * source[a, b + 1]) + f * (
            (1 - g) * source[a + 1, b] + g * source[a + 1, b + 1]
        )
        assert abs(result[i, j] - expected) <= 0.51


def test_each_sample_has_its_own_draw():
    em = noise(1, 1, 1, 16, 16).expand(2, -1, -1, -1, -1).contiguous()
    batch = batch_of(em, mirror_y=0, mirror_x=0, transpose=0)
    batch.draws["mirror_x"][1] = 1
    result, _ = augment(batch, PATCH)
    assert torch.equal(result[0], em[0])
    assert torch.equal(result[1], em[1].flip(-1))


@pytest.mark.parametrize("angle", [None, 0.7])
def test_a_mirror_of_z_turns_its_samples_upside_down_and_changes_nothing_in_the_plane(angle):
    em, labels = noise(2, 1, 5, 24, 24), noise(2, 2, 5, 24, 24)
    turn = {} if angle is None else {"angle": angle}
    flat = augment(batch_of(em, labels, mirror_y=1, mirror_x=0, transpose=1, **turn), (5, 16, 16))
    batch = batch_of(em, labels, mirror_y=1, mirror_x=0, transpose=1, **turn)
    batch.draws["mirror_z"] = torch.tensor([1.0, 0.0])
    for mirrored, plain in zip(augment(batch, (5, 16, 16)), flat):
        assert torch.equal(mirrored[0], plain[0].flip(1))
        assert not torch.equal(mirrored[0], plain[0])
        assert torch.equal(mirrored[1], plain[1])


def test_validation_is_cut_to_its_centre_only():
    em = noise(2, 1, 1, 24, 24)
    assert torch.equal(augment(batch_of(em), PATCH)[0], em[..., 4:20, 4:20])


def test_batched_path_of_the_accelerator_equals_the_single_one():
    em, labels = noise(4, 1, 2, 24, 24), noise(4, 2, 2, 24, 24)
    batch = batch_of(em, labels, mirror_y=1, mirror_x=0, transpose=1)
    batch.draws["angle"] = torch.tensor([0.1, -2.0, 3.0, 1.0])
    whole = resample_plane(em, labels, plane_map(**batch.draws), 16, 16, exact=False)
    assert_rounded_alike(augment(batch, PATCH), whole)


def assert_rounded_alike(ours, theirs):
    """The same but where a processor may round to the other side: a grey level, and the label on a boundary."""
    assert (ours[0].int() - theirs[0].int()).abs().max() <= 1
    assert (ours[1] != theirs[1]).float().mean() < 0.01


@pytest.mark.parametrize("angle", [None, 1.1])
@pytest.mark.parametrize(
    ("patch", "context"),
    [
        ((1, 16, 16), (1, 16, 16)),
        ((2, 16, 16), (2, 30, 30)),
        ((1, 12, 20), (1, 20, 20)),
        ((1, 12, 20), (1, 24, 28)),
        ((1, 15, 15), (1, 23, 23)),
        ((1, 12, 15), (1, 20, 21)),
        ((1, 16, 12), (1, 16, 12)),
    ],
)
def test_every_draw_on_the_cpu_equals_the_accelerators_path(patch, context, angle):
    """All eight mirrors and transposes, with contexts that are oblong, too small, or centred between voxels."""
    em, labels = noise(8, 1, *context), noise(8, 2, *context)
    batch = batch_of(em, labels)
    batch.draws |= {name: (torch.arange(8) >> bit & 1).float() for bit, name in enumerate(FLAGS)}
    if angle is not None:
        batch.draws["angle"] = torch.linspace(-angle, angle, 8)
    whole = resample_plane(em, labels, plane_map(**batch.draws), *patch[1:], exact=angle is None)
    ours = augment(batch, patch)
    assert all(part.is_contiguous() for part in ours)
    if angle is None:
        assert all(torch.equal(a, b) for a, b in zip(ours, whole))
    else:
        assert_rounded_alike(ours, whole)


@pytest.mark.parametrize(
    ("rotate", "transpose", "expected"),
    [(True, True, (1, 364, 364)), (False, True, (1, 256, 256)), (False, False, (1, 256, 256))],
)
def test_context_size(rotate, transpose, expected):
    assert context_size((1, 256, 256), rotate=rotate, transpose=transpose) == expected


def test_context_of_an_oblong_patch():
    assert context_size((4, 16, 24), rotate=False, transpose=True) == (4, 24, 24)
    assert context_size((4, 16, 24), rotate=False, transpose=False) == (4, 16, 24)
    em = noise(1, 1, 1, 24, 24)
    assert torch.equal(run(em, (1, 16, 24), t=1)[0][0, 0, 0], em[0, 0, 0].T[4:20])
