"""Patches: determinism, where they lie, how often, and the fixed validation set."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.data import PackedCrop, PackedDataset, PatchSampler, expand_labels, validation_set
from trainables.data.expand import class_masks, pack_class, packed_bytes
from trainables.data.sampling import cut
from trainables.errors import DataError, SettingsError
from trainables.settings import DataSettings

CLASSES = ("nuc", "pm", "golgi_mem")


def make_crop(name: str, side: str, masks: dict[int, np.ndarray], shape=(4, 40, 50), margin=40) -> PackedCrop:
    """A crop in which class index → present mask (D, H, W) is annotated; EM holds 1 + x index modulo 250."""
    labels = np.zeros((packed_bytes(len(CLASSES)), *shape), np.uint8)
    positive, known = np.zeros(3, np.int64), np.zeros(3, np.int64)
    positions = np.full((3, 16, 3), -1, np.int32)
    for index, mask in masks.items():
        pack_class(labels, index, 3, mask, np.ones(shape, bool))
        positive[index], known[index] = mask.sum(), mask.size
        found = np.argwhere(mask)[:16]
        positions[index, : len(found)] = found
    width = shape[2] + 2 * margin
    em = np.broadcast_to(np.arange(width) % 250 + 1, (shape[0], shape[1] + 2 * margin, width)).astype(np.uint8)
    return PackedCrop(name, side, shape, em, labels, (0, -margin, -margin), positive, known, positions)


def spot(shape=(4, 40, 50), at=None) -> np.ndarray:
    mask = np.zeros(shape, bool)
    if at is not None:
        mask[at] = True
    return mask


def make_dataset(crops: list[PackedCrop], **settings) -> PackedDataset:
    given = DataSettings(classes=list(CLASSES), **({"patch": [1, 16, 16]} | settings))
    return PackedDataset(given, CLASSES, tuple(crops), "0", "", Path())


@pytest.fixture
def dataset() -> PackedDataset:
    crops = [make_crop(f"a/{n}", "train", {0: spot(at=(n, 3, 3))}) for n in range(3)]
    return make_dataset([*crops, make_crop("a/v", "validate", {0: spot(at=(0, 1, 1))})])


def same(a, b) -> bool:
    draws = a.draws.keys() == b.draws.keys() and all(torch.equal(a.draws[k], b.draws[k]) for k in a.draws)
    return draws and all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("em", "labels", "crop"))


def test_a_batch_is_a_function_of_seed_and_step(dataset):
    sampler = PatchSampler(dataset, batch_size=8, seed=4)
    in_order = [sampler.batch(step) for step in range(4)]
    late = PatchSampler(dataset, batch_size=8, seed=4)
    assert all(same(late.batch(step), in_order[step]) for step in (3, 0, 2, 1))
    assert not same(in_order[0], in_order[1])
    assert not same(in_order[0], PatchSampler(dataset, batch_size=8, seed=5).batch(0))


def test_augmentation_switches_do_not_move_the_patches(dataset):
    """The arms of a comparison see the same places whatever is augmented."""
    plain = make_dataset(list(dataset.crops), mirror=False, transpose=False, rotate_degrees=0.0)
    bare = PatchSampler(plain, batch_size=8, seed=0).batch(0)
    rich = PatchSampler(dataset, batch_size=8, seed=0).batch(0)
    assert bare.draws == {}
    assert rich.em.shape == (8, 1, 1, 24, 24)
    assert bare.em.shape == (8, 1, 1, 16, 16)
    assert torch.equal(bare.crop, rich.crop)
    assert torch.equal(bare.em, rich.em[..., 4:20, 4:20])


def test_draws_are_fair_and_within_range(dataset):
    batches = [PatchSampler(dataset, batch_size=200, seed=0).batch(step) for step in range(5)]
    for name in ("mirror_y", "mirror_x", "transpose"):
        values = torch.cat([b.draws[name] for b in batches])
        assert set(values.tolist()) == {0.0, 1.0}
        assert abs(values.mean() - 0.5) < 0.08
    angle = torch.cat([b.draws["angle"] for b in batches])
    assert angle.abs().max() <= np.pi
    assert abs(angle.mean()) < 0.3
    assert angle.std() == pytest.approx(np.pi / np.sqrt(3), rel=0.06)


def places(dataset: PackedDataset, number: int, **more) -> tuple[np.ndarray, np.ndarray]:
    """Crop (N,) and first voxel (N, 3) of many patches."""
    return PatchSampler(dataset, batch_size=number, seed=0, **more)._positions(np.random.default_rng(1))


def test_every_place_inside_a_large_crop_is_equally_likely(dataset):
    _, starts = places(dataset, 6000)
    for axis, slots in ((0, 4), (1, 40 - 16 + 1), (2, 50 - 16 + 1)):
        counts = np.bincount(starts[:, axis], minlength=slots)
        assert len(counts) == slots
        chi_square = ((counts - 6000 / slots) ** 2 / (6000 / slots)).sum()
        assert chi_square < slots - 1 + 5 * np.sqrt(2 * (slots - 1))


def test_a_small_crop_lies_at_every_offset_inside_the_patch():
    crop = make_crop("a/1", "train", {0: np.ones((4, 10, 40), bool)}, shape=(4, 10, 40))
    _, starts = places(make_dataset([crop]), 2000)
    assert set(starts[:, 1].tolist()) == set(range(-6, 1))
    assert set(starts[:, 2].tolist()) == set(range(25))


@pytest.mark.parametrize(("sampling", "share"), [("crop", 0.5), ("volume", 0.8)])
def test_crop_and_volume_sampling(sampling, share):
    crops = [make_crop("a/1", "train", {}, shape=(4, 20, 80)), make_crop("a/2", "train", {}, shape=(4, 20, 20))]
    members, _ = places(make_dataset(crops), 4000, sampling=sampling)
    assert (members == 0).mean() == pytest.approx(share, abs=0.04)


def test_class_aware_patches_hold_the_drawn_class():
    """Two classes in one voxel each: every patch holds one of them, each about half of the time."""
    crops = [
        make_crop("a/0", "train", {}),
        make_crop("a/1", "train", {0: spot(at=(1, 5, 6))}),
        make_crop("a/2", "train", {2: spot(at=(3, 39, 49))}),
    ]
    sampler = PatchSampler(make_dataset(crops, rotate_degrees=0.0), batch_size=200, seed=0, sampling="class_aware")
    batch = sampler.batch(0)
    found = (expand_labels(batch.labels, 3) == 1).flatten(2).any(dim=2)
    assert found.any(dim=1).all()
    assert 0.35 < found[:, 0].float().mean() < 0.65
    assert set(batch.crop.tolist()) == {1, 2}


def test_class_aware_draws_only_classes_that_the_task_learns():
    """An ignore label fills whole crops; nobody wants patches of it."""
    crops = [
        make_crop("a/0", "train", {0: spot(at=(1, 5, 6)), 2: spot(at=(1, 5, 7))}),
        make_crop("a/1", "train", {2: spot(at=(3, 39, 49))}),
    ]
    dataset = make_dataset(crops, rotate_degrees=0.0)
    sampler = PatchSampler(dataset, batch_size=50, seed=0, sampling="class_aware", learnt=[dataset.classes[0]])
    assert set(sampler.batch(0).crop.tolist()) == {0}
    assert sampler.expected_voxels()[0].tolist()[0] == 1, "the counts are of the same draws"
    everything = [
        PatchSampler(dataset, batch_size=50, seed=0, sampling="class_aware", learnt=of)
        for of in (None, dataset.classes)
    ]
    assert same(*(each.batch(0) for each in everything))
    with pytest.raises(DataError, match="no class that is learnt has a positive voxel"):
        PatchSampler(dataset, batch_size=1, seed=0, sampling="class_aware", learnt=[dataset.classes[1]])


def test_class_aware_needs_a_positive_voxel():
    with pytest.raises(DataError, match="no class that is learnt has a positive voxel"):
        PatchSampler(make_dataset([make_crop("a/0", "train", {})]), batch_size=1, seed=0, sampling="class_aware")


def test_beyond_the_crop_labels_are_unknown_and_em_is_real():
    crop = make_crop("a/1", "train", {0: np.ones((4, 10, 8), bool)}, shape=(4, 10, 8))
    batch = PatchSampler(make_dataset([crop], rotate_degrees=0.0), batch_size=16, seed=0).batch(0)
    target = expand_labels(batch.labels, 3)
    assert ((target[:, 0] == 1).flatten(1).sum(dim=1) == 80).all()
    assert (target[:, 0].isnan().flatten(1).sum(dim=1) == 16 * 16 - 80).all()
    assert target[:, 1:].isnan().all()
    assert (batch.em > 0).all()
    steps = batch.em[:, 0, 0, 0].to(torch.int64).diff(dim=-1)
    assert (steps == 1).all()


def test_em_that_does_not_exist_is_zero_and_nothing_is_dropped():
    crop = make_crop("a/1", "train", {0: np.ones((4, 10, 8), bool)}, shape=(4, 10, 8), margin=0)
    batch = PatchSampler(make_dataset([crop]), batch_size=16, seed=0).batch(0)
    assert (batch.em.flatten(1).count_nonzero(dim=1) == 80).all()


def test_three_dimensional_patches():
    crop = make_crop("a/1", "train", {1: np.ones((12, 40, 50), bool)}, shape=(12, 40, 50))
    batch = PatchSampler(make_dataset([crop], patch=[8, 16, 16]), batch_size=3, seed=0).batch(0)
    assert batch.em.shape == (3, 1, 8, 24, 24)
    assert batch.labels.shape == (3, 1, 8, 24, 24)


def test_mirroring_z_moves_neither_the_patches_nor_the_other_draws():
    crop = make_crop("a/1", "train", {1: np.ones((12, 40, 50), bool)}, shape=(12, 40, 50))
    plain, mirrored = (
        PatchSampler(make_dataset([crop], patch=[8, 16, 16], mirror_z=on), batch_size=64, seed=0).batch(3)
        for on in (False, True)
    )
    assert 16 < mirrored.draws["mirror_z"].sum() < 48
    assert torch.equal(plain.em, mirrored.em)
    assert mirrored.draws.keys() - plain.draws.keys() == {"mirror_z"}
    assert all(torch.equal(plain.draws[name], mirrored.draws[name]) for name in plain.draws)


def test_a_patch_of_one_slice_has_no_z_to_mirror():
    with pytest.raises(SettingsError, match=r"data\.mirror_z=True.*no z to mirror.*3D patch"):
        DataSettings(patch=[1, 16, 16], mirror_z=True)


def test_side_without_crops_is_an_error(dataset):
    with pytest.raises(DataError, match="no crop on side 'test'"):
        PatchSampler(dataset, side="test", batch_size=1, seed=0)


def stratified(**settings) -> PackedDataset:
    """Five validation crops; golgi_mem is one voxel of one of them, pm only in another."""
    crops = [make_crop(f"v/{n}", "validate", {0: spot(at=(slice(None), slice(0, 20)))}) for n in range(3)]
    crops += [make_crop("v/3", "validate", {1: spot(at=(2, 30, 30))}), make_crop("t/0", "train", {0: spot()})]
    return make_dataset([*crops, make_crop("v/4", "validate", {2: spot(at=(3, 0, 49)), 0: spot()})], **settings)


def test_validation_set_is_fixed_and_stratified():
    dataset = stratified()
    batches = validation_set(dataset, batch_size=4, num_batches=3, seed=0)
    again = validation_set(dataset, batch_size=4, num_batches=3, seed=0)
    assert [b.em.shape for b in batches] == [(4, 1, 1, 16, 16)] * 3
    assert all(same(a, b) for a, b in zip(batches, again))
    assert not all(same(a, b) for a, b in zip(batches, validation_set(dataset, batch_size=4, num_batches=3, seed=1)))
    turns = Counter(torch.cat([b.crop for b in batches]).tolist())
    assert set(turns) == {0, 1, 2, 3, 5}
    assert set(turns.values()) <= {2, 3}


def test_validation_boxes_are_the_same_voxels_for_patches_of_any_size():
    """Slices and blocks of the same boxes: voxels annotated and positive, and what is in them, crop by crop."""
    boxes = {"validation_patch": [4, 16, 16], "validation_boxes": 6}
    found = []
    for patch, batch_size, shape in (([1, 16, 16], 8, (3, 8)), ([4, 16, 16], 4, (2, 3)), ([2, 8, 8], 7, (8, 6))):
        dataset = stratified(patch=patch, **boxes)
        patches = validation_set(dataset, batch_size=batch_size, num_batches=99, seed=0)
        assert (len(patches), patches.batch_size) == shape
        voxels = {}
        for batch in patches:
            targets = expand_labels(batch.labels, len(dataset.classes))
            for crop, target, em in zip(batch.crop.tolist(), targets, batch.em):
                sums = [*(target == 1).sum(dim=(1, 2, 3)).tolist(), *(target == 0).sum(dim=(1, 2, 3)).tolist()]
                sums.append(int(em[0][~target[0].isnan()].sum()))
                voxels[crop] = np.add(voxels.get(crop, 0), sums)
        found.append(voxels)
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for crop, sums in found[0].items():
        assert (sums == found[1][crop]).all()
        assert (sums == found[2][crop]).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"validation_patch": [4, 16, 24], "validation_boxes": 1}, r"validation_patch=\[4, 16, 24\]: three sides"),
        ({"validation_patch": [4, 16], "validation_boxes": 1}, r"multiples of those of data\.patch=\[1,16,16\]"),
        ({"validation_patch": [4, 16, 16]}, r"validation_boxes=0: goes with"),
        ({"validation_boxes": 3}, r"validation_boxes=3: goes with"),
    ],
)
def test_validation_boxes_that_patches_cannot_tile_are_refused(given, said):
    with pytest.raises(SettingsError, match=said):
        make_dataset([], **given)


@pytest.mark.parametrize("seed", range(5))
def test_validation_set_holds_every_class_with_positives(seed):
    batches = validation_set(stratified(), batch_size=3, num_batches=1, seed=seed)
    target = torch.cat([expand_labels(b.labels, 3) for b in batches])
    assert (target == 1).flatten(2).any(dim=2).any(dim=0).tolist() == [True, True, True]


def random_crop(name: str, shape: tuple[int, int, int], seed: int) -> PackedCrop:
    """nuc everywhere annotated, pm in the left half of it, golgi_mem not at all."""
    rng = np.random.default_rng(seed)
    crop = make_crop(name, "train", {0: rng.random(shape) < 0.2}, shape=shape)
    half = np.arange(shape[2]) < shape[2] // 2
    present = (rng.random(shape) < 0.05) & half
    pack_class(crop.labels, 1, 3, present, np.broadcast_to(half, shape))
    crop.positive[1], crop.known[1] = present.sum(), half.sum() * shape[0] * shape[1]
    found = np.argwhere(present)[:16]
    crop.positions[1, : len(found)] = found
    return crop


def counted(crop: PackedCrop, patch: tuple[int, int, int], starts: list[tuple[int, int, int]]) -> np.ndarray:
    """Positive and annotated voxels (2, C), mean over patches cut at `starts`."""
    dataset = make_dataset([crop], patch=list(patch))
    batch = cut(dataset, np.zeros(len(starts), np.int64), np.array(starts), np.array(patch), {})
    masks = [class_masks(np.moveaxis(batch.labels.numpy(), 1, 0).reshape(1, -1, *patch[1:]), c, 3) for c in range(3)]
    return np.array([[mask[kind].sum() for mask in masks] for kind in (0, 1)]) / len(starts)


def every_start(low: np.ndarray, high: np.ndarray) -> list[tuple[int, int, int]]:
    return list(product(*(range(a, b + 1) for a, b in zip(low.tolist(), high.tolist()))))


@pytest.mark.parametrize("patch", [(1, 8, 8), (3, 12, 6), (9, 30, 30)])
@pytest.mark.parametrize("sampling", ["crop", "volume"])
def test_expected_voxels_equal_the_mean_over_every_place_of_a_patch(patch, sampling):
    crops = [random_crop("a/1", (4, 11, 13), 0), random_crop("a/2", (2, 20, 7), 1)]
    dataset = make_dataset(crops, patch=list(patch), sampling=sampling)
    weights = np.array([np.prod(c.shape) if sampling == "volume" else 1 for c in crops], float)
    slack = [np.array(c.shape) - patch for c in crops]
    means = [counted(c, patch, every_start(np.minimum(s, 0), np.maximum(s, 0))) for c, s in zip(crops, slack)]
    expected = np.average(means, axis=0, weights=weights)
    found = PatchSampler(dataset, batch_size=1, seed=0).expected_voxels()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("patch", [(1, 8, 8), (3, 12, 6)])
def test_expected_voxels_of_class_aware_sampling_follow_its_draws(patch):
    """A class that is there, a crop that holds it, one of the kept voxels, a place whose patch holds that voxel."""
    crops = [
        random_crop("a/1", (4, 11, 13), 0),
        make_crop("a/2", "train", {0: spot((2, 20, 7), (1, 2, 3))}, (2, 20, 7)),
    ]
    dataset = make_dataset(crops, patch=list(patch), sampling="class_aware")
    expected = np.zeros((2, 3))
    for index, holders in ((0, crops), (1, crops[:1])):
        for crop in holders:
            kept = crop.positions[index][: min(int(crop.positive[index]), 16)]
            slack = np.array(crop.shape) - patch
            for voxel in kept:
                low = np.maximum(np.minimum(slack, 0), voxel - patch + 1)
                high = np.minimum(np.maximum(slack, 0), voxel)
                expected += counted(crop, patch, every_start(low, high)) / (2 * len(holders) * len(kept))
    found = PatchSampler(dataset, batch_size=1, seed=0).expected_voxels()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_final_training_draws_from_both_sides_and_never_from_the_test() -> None:
    crops = tuple(make_crop(f"a/crop{i}", side, {0: spot()}) for i, side in enumerate(("train", "validate", "test")))
    for train_on, wanted in (("train", {0}), ("all", {0, 1})):
        settings = DataSettings(classes=list(CLASSES), patch=[1, 16, 16], train_on=train_on)
        dataset = PackedDataset(settings, CLASSES, crops, "f", "", Path())
        sampler = PatchSampler(dataset, batch_size=32, seed=0)
        assert set(sampler.batch(0).crop.tolist()) == wanted
        patches = validation_set(dataset, batch_size=4, num_batches=1, seed=0)
        assert set(patches[0].crop.tolist()) == {1}, "validation stays what it was"
