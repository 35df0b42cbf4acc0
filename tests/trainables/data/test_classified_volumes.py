"""Volumes with one label each: what is written is what is packed, and what is wrong is said in a sentence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr

from trainables.data import PatchSampler, augment, open_packed, validation_set
from trainables.data.phantom import oct
from trainables.data.sources import open_source
from trainables.errors import DataError, SettingsError
from trainables.settings import DataSettings
from trainables.tasks import get_task

CLASSES = ["low", "mid", "high"]
SHAPE = (4, 8, 8)


def settings_of(root: Path, **given: Any) -> DataSettings:
    fixed = {
        "name": "classified_volumes",
        "root": str(root),
        "cache_dir": str(root.parent / "cache"),
        "voxel_nm": [1, 1, 1],
    }
    return DataSettings(**{**fixed, "classes": CLASSES, "patch": list(SHAPE), **given})


def write(folder: Path, counts: dict[str, tuple[int, int]], shape: tuple[int, ...] = SHAPE) -> Path:
    """labels.csv and (train, validate) volumes of each label; their voxels say which they are."""
    folder.mkdir(parents=True)
    lines = ["volume,label,split"]
    for label, (train, validate) in counts.items():
        for n in range(train + validate):
            name = f"{label}{n}.npy"
            np.save(folder / name, np.full(shape, 40 * CLASSES.index(label) + n, np.uint8))
            lines.append(f"{name},{label},{'train' if n < train else 'validate'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


COUNTS = {"low": (5, 2), "mid": (2, 1), "high": (2, 2)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "volumes", COUNTS)


def labels_of(batch: Any) -> list[int]:
    return get_task("classification").target(batch.labels, CLASSES).flatten(1).argmax(1).tolist()


def test_each_validation_volume_is_looked_at_exactly_once_and_whole(root: Path) -> None:
    dataset = open_packed(settings_of(root))
    for batch_size in (1, 2, 3, 16):
        found = validation_set(dataset, batch_size=batch_size, num_batches=99, seed=0, whole_crops=True)
        batches = [found[n] for n in range(len(found))]
        seen = [int(crop) for batch in batches for crop in batch.crop]
        assert sorted(seen) == [i for i, crop in enumerate(dataset.crops) if crop.side == "validate"]
        assert len({len(batch.crop) for batch in batches}) == 1
        for batch in batches:
            for image, crop, label in zip(batch.em, batch.crop.tolist(), labels_of(batch)):
                np.testing.assert_array_equal(image[0], dataset.crops[crop].em)
                assert dataset.crops[crop].name.startswith(CLASSES[label])


def test_counts_are_of_volumes_and_training_volumes_are_drawn_alike(root: Path) -> None:
    dataset = open_packed(settings_of(root))
    assert dataset.counts()["positive"] == [5, 2, 2]
    sampler = PatchSampler(dataset, batch_size=4, seed=0)
    positive, known = sampler.expected_voxels()
    assert (positive / known).tolist() == pytest.approx([5 / 9, 2 / 9, 2 / 9])
    drawn = Counter(int(crop) for step in range(200) for crop in sampler.batch(step).crop)
    assert set(drawn) == {i for i, crop in enumerate(dataset.crops) if crop.side == "train"}
    assert max(drawn.values()) < 1.6 * min(drawn.values())


def test_class_aware_draws_every_class_alike(root: Path) -> None:
    sampler = PatchSampler(open_packed(settings_of(root, sampling="class_aware")), batch_size=4, seed=0)
    positive, _ = sampler.expected_voxels()
    assert positive.tolist() == pytest.approx([1 / 3] * 3)


def test_ranks_share_each_batch_so_no_sampler_is_set_against_another(root: Path) -> None:
    """A DistributedSampler would replace a weighted one; here every rank has its part of the weighted batch."""
    dataset = open_packed(settings_of(root, sampling="class_aware"))
    whole = PatchSampler(dataset, batch_size=6, seed=0).batch(3).crop.tolist()
    parts = [PatchSampler(dataset, batch_size=6, seed=0, rank=r, world=2).batch(3).crop.tolist() for r in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)


def test_a_label_survives_every_augmentation_and_gain_keeps_within_its_limits(root: Path) -> None:
    dataset = open_packed(settings_of(root, gain=0.1, rotate_degrees=5.0, mirror_y=False, transpose=False))
    sampler = PatchSampler(dataset, batch_size=8, seed=0)
    ratios = []
    for step in range(20):
        batch = sampler.batch(step)
        assert set(batch.draws["mirror_y"].tolist()) == {0.0}
        em, labels = augment(batch, SHAPE)
        for image, crop, label in zip(em, batch.crop.tolist(), labels_of(type(batch)(em, labels, batch.crop))):
            name, value = dataset.crops[crop].name, float(dataset.crops[crop].em[0, 4, 4])
            assert name.startswith(CLASSES[label])
            ratios.append(float(image[0, 0, 4, 4]) / value if value > 30 else 1.0)
    assert min(ratios) == pytest.approx(0.9, abs=0.03)
    assert max(ratios) == pytest.approx(1.1, abs=0.03)


def test_gain_leaves_the_other_draws_as_they_were(root: Path) -> None:
    dataset = open_packed(settings_of(root))
    plain = PatchSampler(dataset, batch_size=4, seed=1).batch(7)
    bright = PatchSampler(open_packed(settings_of(root, gain=0.1)), batch_size=4, seed=1).batch(7)
    assert torch.equal(plain.crop, bright.crop)
    assert all(torch.equal(plain.draws[name], bright.draws[name]) for name in plain.draws)


def test_every_kind_of_file_is_read_and_other_shapes_and_types_become_the_patch(tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    ramp = np.linspace(-1, 1, 8 * 16 * 16).reshape(8, 16, 16).astype(np.float32)
    for side in ("train", "validate"):
        for label in CLASSES:
            (folder / side / label).mkdir(parents=True)
        np.save(folder / side / "low" / "a.npy", ramp)
        np.savez(folder / side / "low" / "b.npz", volume=ramp)
        tifffile.imwrite(folder / side / "mid" / "c.tif", ramp)
        zarr.save_array(folder / side / "high" / "d.zarr", ramp)
    crops = open_packed(settings_of(folder)).crops
    files = ["high/d.zarr", "low/a.npy", "low/b.npz", "mid/c.tif"]
    assert [crop.name for crop in crops] == [f"{side}/{file}" for side in ("train", "validate") for file in files]
    for crop in crops:
        assert crop.em.shape == SHAPE
        assert np.array_equal(crop.em, crops[0].em)
    assert (int(crops[0].em.min()), int(crops[0].em.max())) == pytest.approx((0, 255), abs=20)
    for file in folder.glob("*/low/a.npy"):
        np.save(file, ramp > 0)
    mask = open_packed(settings_of(folder)).crops[1].em
    assert (int(mask.min()), int(mask.max())) == (0, 255), "a volume of True and False"
    wide = open_packed(settings_of(folder, options={"range": [-3.0, 1.0]})).crops[0]
    assert int(wide.em.min()) == pytest.approx(128, abs=20)


def test_without_a_split_each_class_is_divided(tmp_path: Path) -> None:
    folder = write(tmp_path / "volumes", {"low": (20, 0), "mid": (2, 0), "high": (10, 0)})
    text = (folder / "labels.csv").read_text().replace(",train", "")
    (folder / "labels.csv").write_text(text)
    sides = Counter((item.label, item.side) for item in open_source(settings_of(folder)).items())
    assert sides["low", "validate"] == 3
    assert (sides["mid", "validate"], sides["mid", "train"]) == (1, 1)


def test_classes_are_in_the_order_of_class_to_idx(root: Path) -> None:
    assert open_source(settings_of(root)).annotated() == ["high", "low", "mid"]
    (root / "class_to_idx.json").write_text(json.dumps({"mid": 1, "low": 0, "high": 2}))
    assert open_source(settings_of(root)).annotated() == CLASSES
    with pytest.raises(DataError, match=r"order low, mid, high. Write data.classes=\[low,mid,high\]"):
        open_source(settings_of(root, classes=["mid", "low", "high"])).items()


def change(root: Path, old: str, new: str) -> None:
    path = root / "labels.csv"
    path.write_text(path.read_text().replace(old, new))


def order_in_a_split(root: Path, *names: str, side: str = "") -> None:
    (root / side).mkdir(exist_ok=True)
    (root / side / "class_to_idx.json").write_text(json.dumps({name: n for n, name in enumerate(names)}))


def spoil(root: Path, value: float) -> None:
    volume = np.ones(SHAPE, np.float32)
    volume[0, 0, :3] = value
    np.save(root / "low0.npy", volume)


WRONG: dict[str, tuple[Any, str]] = {
    "another order in a split": (
        lambda root: (order_in_a_split(root, *CLASSES), order_in_a_split(root, *CLASSES[::-1], side="train")),
        "another class in another split",
    ),
    "an index twice": (
        lambda root: (root / "class_to_idx.json").write_text('{"low": 0, "mid": 0, "high": 1}'),
        "every class needs its own index",
    ),
    "a label nobody knows": (
        lambda root: (order_in_a_split(root, "low", "mid"), None),
        "label high is not in class_to_idx.json; there are low, mid",
    ),
    "a split that lacks a class": (
        lambda root: change(root, "mid2.npy,mid,validate", "mid2.npy,mid,train"),
        "no volume of mid on side validate, which has 2 low, 2 high",
    ),
    "a split in one line only": (
        lambda root: change(root, "low0.npy,low,train", "low0.npy,low"),
        "1 of 14 lines have no",
    ),
    "a line without a label": (lambda root: change(root, "low0.npy,low,train", "low0.npy"), r"labels.csv:2: low0.npy"),
    "a volume twice": (lambda root: change(root, "low1.npy", "low0.npy"), "low0.npy appears again"),
    "a side nobody knows": (lambda root: change(root, "low0.npy,low,train", "low0.npy,low,dev"), "train or validate"),
    "no such file": (lambda root: (root / "low0.npy").unlink(), "low0.npy: [Nn]o such file"),
    "one value": (lambda root: spoil(root, 1.0), "low0.npy: every value is 1,"),
    "a plane": (lambda root: np.save(root / "low0.npy", np.ones((8, 8))), r"8 × 8 values .* numbers \(D, H, W\)"),
    "no volume": (lambda root: (root / "low0.npy").write_text("volume"), "low0.npy cannot be read"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(root: Path, wrong: str) -> None:
    spoiled, words = WRONG[wrong]
    spoiled(root)
    with pytest.raises(DataError, match=words):
        open_packed(settings_of(root))


def test_no_volumes_at_all_and_a_patch_of_one_slice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no labelled volumes found"):
        open_packed(settings_of(tmp_path / "empty"))
    with pytest.raises(DataError, match="no such folder"):
        open_packed(settings_of(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"data.patch=\[1, 8, 8\]: a volume is looked at as a whole"):
        open_source(settings_of(tmp_path, patch=[1, 8, 8]))


def test_generated_volumes_are_the_same_for_the_same_seed_and_26_percent_normal(tmp_path: Path) -> None:
    plan = oct.Plan(train=(2, 1, 1, 1), validate=(1, 1, 1, 1))
    first, again, other = (oct.make(tmp_path / n, seed=s, plan=plan) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    for path in sorted(first.glob("*.npy")):
        np.testing.assert_array_equal(np.load(path), np.load(again / path.name))
        assert not np.array_equal(np.load(path), np.load(other / path.name))
    validate = oct.EDITIONS["small"].validate
    assert validate[0] / sum(validate) == pytest.approx(0.26, abs=0.005)
    sides = Counter(item.side for item in open_source(settings_of(first, classes=list(oct.CLASSES))).items())
    assert sides == {"train": 5, "validate": 4}
