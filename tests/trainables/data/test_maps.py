"""Distances and skeletons of labels: against MONAI and loops, through the cache, the augmentation and a training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import weights_of
from tiny_trial import CLASSES, tiny_dataset, tiny_settings

from trainables.data import PackedBatch, PackedDataset, augment, open_packed
from trainables.data.expand import pack_class, packed_bytes
from trainables.data.maps import LIMIT, expand_maps, label_bytes, signed_distance, skeleton, with_maps
from trainables.data.packing import shaping_settings
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.losses.terms import soft_skeleton


def masks(seed: int = 0, shape: tuple[int, ...] = (6, 9, 8), unknown: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """(present, known) of blobs, present only where known."""
    rng = np.random.default_rng(seed)
    coarse = rng.random([math.ceil(n / 3) for n in shape]) < 0.4
    present = np.kron(coarse, np.ones((3, 3, 3)))[: shape[0], : shape[1], : shape[2]] > 0
    known = rng.random(shape) >= unknown
    return present & known, known


def packed(*classes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    labels = np.zeros((packed_bytes(len(classes)), *classes[0][0].shape), np.uint8)
    for index, (present, known) in enumerate(classes):
        pack_class(labels, index, len(classes), present, known)
    return labels


def test_distances_are_those_to_the_nearest_voxel_of_the_other_kind_that_somebody_labelled() -> None:
    present, known = masks()
    found = signed_distance(present, known)
    places = {kind: np.argwhere(mask) for kind, mask in (("in", present), ("out", known & ~present))}
    for voxel in itertools.product(*map(range, present.shape)):
        other = places["out" if present[voxel] else "in"]
        nearest = math.sqrt(((other - voxel) ** 2).sum(axis=1).min())
        assert found[voxel] == pytest.approx(1 - nearest if present[voxel] else nearest, rel=1e-6)


def test_where_everything_is_annotated_distances_are_monais() -> None:
    from monai.losses import BoundaryLoss

    present, known = masks(unknown=0.0)
    reference = BoundaryLoss().compute_distance_map(torch.from_numpy(present)[None, None].float())
    np.testing.assert_allclose(signed_distance(present, known), reference[0, 0].numpy(), rtol=1e-6)


def test_a_class_that_is_nowhere_or_everywhere_is_as_far_as_can_be_told() -> None:
    everywhere = np.ones((2, 3, 4), bool)
    assert (signed_distance(~everywhere, everywhere) == LIMIT).all()
    assert (signed_distance(everywhere, everywhere) == -LIMIT).all()
    assert not skeleton(~everywhere, everywhere).any()
    assert not skeleton(everywhere, everywhere).any()


def test_the_skeleton_is_the_limit_of_the_soft_one() -> None:
    for unknown in (0.0, 0.05):
        present, known = masks(2, (12, 15, 14), unknown)
        soft = soft_skeleton(torch.from_numpy(present)[None, None].float(), torch.from_numpy(known)[None, None], 9)
        np.testing.assert_array_equal(skeleton(present, known), soft[0, 0].numpy() > 0.5)


def test_the_skeleton_of_a_sheet_is_its_middle_and_what_nobody_labelled_does_not_eat_it() -> None:
    present, known = np.zeros((9, 12, 12), bool), np.ones((9, 12, 12), bool)
    present[3:6] = True
    middle = np.zeros_like(present)
    middle[4] = True
    np.testing.assert_array_equal(skeleton(present, known), middle)
    known[:, 6:] = False
    np.testing.assert_array_equal(skeleton(present & known, known), middle & known)


def test_maps_lie_behind_the_labels_and_come_back_to_an_eighth_of_a_voxel() -> None:
    classes = [masks(seed) for seed in range(9)]  # two bytes of skeletons
    labels = packed(*classes)
    whole = with_maps(labels, 9, flat=False)
    assert whole.shape[0] == label_bytes(9, True) == packed_bytes(9) + 9 + 2
    np.testing.assert_array_equal(whole[: packed_bytes(9)], labels)
    distance, ridge = expand_maps(torch.from_numpy(whole)[None], 9)
    for index, (present, known) in enumerate(classes):
        np.testing.assert_allclose(distance[0, index].numpy(), signed_distance(present, known), atol=1 / 8)
        np.testing.assert_array_equal(ridge[0, index].numpy() > 0, skeleton(present, known))


def test_flat_patches_have_the_maps_of_their_slice() -> None:
    present, known = masks()
    flat = with_maps(packed((present, known)), 1, flat=True)
    for z in range(len(present)):
        alone = with_maps(packed((present[z : z + 1], known[z : z + 1])), 1, flat=False)
        np.testing.assert_array_equal(flat[:, z : z + 1], alone)


def test_the_cache_holds_them_where_they_are_asked_for(small_root, settings_for) -> None:
    settings = settings_for(small_root)
    plain, mapped = open_packed(settings), open_packed(dataclasses.replace(settings, maps=True))
    assert "maps" not in shaping_settings(settings), "caches of earlier versions stay valid"
    assert plain.folder != mapped.folder
    assert plain.fingerprint != mapped.fingerprint
    flat = settings.patch[0] == 1
    for one, other in zip(plain.crops, mapped.crops):
        np.testing.assert_array_equal(other.labels, with_maps(np.asarray(one.labels), 2, flat=flat))


@pytest.mark.parametrize("draw", ["mirror_y", "mirror_x", "transpose", "mirror_z"])
def test_maps_of_augmented_labels_are_augmented_maps(draw: str) -> None:
    labels = packed(masks(3, (6, 8, 8)))
    draws = {name: torch.full((1,), float(name == draw)) for name in ("mirror_y", "mirror_x", "transpose", "mirror_z")}

    def augmented(planes: np.ndarray) -> np.ndarray:
        em = torch.zeros(1, 1, *planes.shape[1:], dtype=torch.uint8)
        batch = PackedBatch(em, torch.from_numpy(planes)[None], torch.zeros(1, dtype=torch.int64), draws)
        return augment(batch, planes.shape[1:])[1][0].numpy()

    after = augmented(with_maps(labels, 1, flat=False))
    np.testing.assert_array_equal(after, with_maps(augmented(labels), 1, flat=False))


SURFACE: dict[str, Any] = {
    "name": "composite",
    "params": {"dice": 0.4, "boundary": 0.01, "boundary_band": 0.2, "skeleton_recall": 0.2, "variance": 0.1},
}


def mapped_dataset(settings: Any) -> PackedDataset:
    plain = tiny_dataset(settings.data)
    crops = [
        dataclasses.replace(c, labels=with_maps(c.labels, len(CLASSES), flat=settings.data.patch[0] == 1))
        for c in plain.crops
    ]
    return dataclasses.replace(plain, crops=tuple(crops))


def make(loss: dict[str, Any] = SURFACE, *, pieces: int = 1, model: Any = None, **data: Any) -> Engine:
    settings = tiny_settings(data={"maps": True, **data}, model=model or {}, trainer={"optimizer": "sgd"})
    return Engine(settings, loss, 0, dataset=mapped_dataset(settings), pieces=pieces)


@pytest.mark.parametrize("patch", [[1, 16, 16], [2, 16, 16]])
def test_a_training_sees_the_maps(patch: list[int]) -> None:
    model = {"width": 4, "depth": 1} if patch[0] > 1 else {}
    row = make(patch=patch, model=model).run_epoch()
    assert all(math.isfinite(row[f"term/{name}"]) for name in SURFACE["params"])
    assert math.isfinite(row["val_loss"])


def test_maps_change_nothing_for_a_loss_without_them() -> None:
    loss = {"name": "composite", "params": {"dice": 1.0}}
    with_them = make(loss)
    settings = tiny_settings(trainer={"optimizer": "sgd"})
    without = Engine(settings, loss, 0, dataset=tiny_dataset(settings.data))
    assert with_them.run_epoch()["val_loss"] == without.run_epoch()["val_loss"]
    assert torch.equal(weights_of(with_them), weights_of(without))


def test_pieces_of_a_batch_have_the_loss_of_the_batch() -> None:
    model = {"options": {"norm": "instance"}}
    whole, parts = make(model=model), make(model=model, pieces=2)
    row, found = whole.run_epoch(), parts.run_epoch()
    for name in ("loss", *(f"term/{name}" for name in SURFACE["params"])):
        assert found[name] == pytest.approx(row[name], rel=1e-3)
    torch.testing.assert_close(weights_of(parts), weights_of(whole), rtol=1e-3, atol=1e-5)


def test_a_loss_that_needs_maps_is_refused_where_none_are_packed() -> None:
    settings = tiny_settings()
    with pytest.raises(SettingsError, match=r"data\.maps=False: .*: boundary_band, boundary, skeleton_recall. Use"):
        Engine(settings, SURFACE, 0, dataset=tiny_dataset(settings.data))
