"""The generated data: layout, metadata, frequencies, promises of `make`. Read with zarr, not with our reader."""

from __future__ import annotations

import csv
import functools
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v04 import Image

from trainables.data.phantom import generate as phantom
from trainables.data.phantom.crops import PUBLISHED
from trainables.data.phantom.writer import majority_pool, mean_pool, multiscales
from trainables.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince212")
TINY = phantom.Plan(
    volumes=tuple(
        replace(v, shape=(40, 160, 160), sides=("validate", "train", "train", "train"), num_finer=min(v.num_finer, 1))
        for v in phantom.VOLUMES[:3]
    )
)

SINGLE = phantom.Plan(volumes=TINY.volumes[:1])


@pytest.fixture(scope="module")
def root(shared_cache: Path) -> Path:
    """The data as users get it. Only read them."""
    return phantom.ensure(shared_cache)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.make(tmp_path_factory.mktemp("tiny") / "data", plan=TINY)


def split_rows(root: Path) -> list[tuple[str, Path, list[str]]]:
    """(side, crop folder, annotated classes) of every row of the split."""
    with (root / phantom.SPLIT).open(newline="") as file:
        rows = list(csv.reader(file))
    assert all(len(row) == 5 for row in rows)
    return [(r[0], root / r[3] / r[4].rsplit("/", 1)[0], r[4].rsplit("/", 1)[1].strip("[]").split(",")) for r in rows]


@functools.cache
def read_label(crop: Path, name: str, level: str = "s0") -> tuple[np.ndarray, dict[str, int]]:
    group = zarr.open_group(crop / name, mode="r", zarr_format=2)
    encoding = group.attrs["cellmap"]["annotation"]["annotation_type"]["encoding"]
    return np.asarray(group[level][:]), encoding


def voxel_volume(crop: Path, name: str) -> float:
    scales = transforms(crop / name)[0]["scale"]
    return float(np.prod(scales)) / 8.0**3


def transforms(group: Path) -> list[dict[str, list[float]]]:
    """Per level a dict with scale and translation in nm."""
    block = json.loads((group / ".zattrs").read_text())["multiscales"][0]
    return [{t["type"]: t[t["type"]] for t in d["coordinateTransformations"]} for d in block["datasets"]]


def frequencies(root: Path, side: str) -> tuple[dict[str, float], dict[str, float]]:
    """Positive over known voxels of the class, and over all voxels of which any class is known, in 8 nm voxels."""
    positive: Counter[str] = Counter()
    known: Counter[str] = Counter()
    anywhere = 0.0
    for row_side, crop, classes in split_rows(root):
        if row_side != side:
            continue
        seen: Any = False
        for name in PUBLISHED:
            if name in classes:
                label, encoding = read_label(crop, name)
                is_known = label != encoding["unknown"]
                unit = voxel_volume(crop, name)
                positive[name] += int(((label > 0) & is_known).sum()) * unit
                known[name] += int(is_known.sum()) * unit
                seen = seen | is_known
        anywhere += float(np.sum(seen)) * voxel_volume(crop, classes[0])
    return {c: positive[c] / known[c] for c in PUBLISHED}, {c: positive[c] / anywhere for c in PUBLISHED}


def test_frequencies_follow_the_published_table(root: Path) -> None:
    for measured in frequencies(root, "train"):
        assert list(measured) == sorted(measured, key=measured.__getitem__, reverse=True)
        for name, published in PUBLISHED.items():
            assert published / 1.5 < measured[name] < published * 1.5, (name, measured)


def test_every_class_is_on_both_sides_and_golgi_in_the_fewest_crops(root: Path) -> None:
    rows = split_rows(root)
    share = sum(side == "validate" for side, _, _ in rows) / len(rows)
    assert share == pytest.approx(0.15, abs=0.02)
    for side in ("train", "validate"):
        own, _ = frequencies(root, side)
        assert all(value > 0 for value in own.values()), (side, own)
    annotated = Counter(name for _, _, classes in rows for name in classes if name in PUBLISHED)
    assert min(annotated, key=annotated.__getitem__) == "golgi_mem"
    assert max(annotated.values()) < len(rows) or min(annotated.values()) < len(rows)
    assert len({crop for _, crop, _ in rows}) == len(rows)


def test_it_fits_on_disk(root: Path) -> None:
    blocks = sum(p.lstat().st_blocks * 512 for p in root.rglob("*"))
    assert blocks <= 60e6


def test_many_crops_are_smaller_than_a_patch(root: Path) -> None:
    extents = []
    for _, crop, classes in split_rows(root):
        array = zarr.open_group(crop / classes[0], mode="r", zarr_format=2)["s0"]
        extents.append([n * s / 8 for n, s in zip(array.shape, transforms(crop / classes[0])[0]["scale"], strict=True)])
    smaller = [e for e in extents if min(e[1:]) < 64]
    assert len(extents) / 3 < len(smaller) < len(extents)


def test_groups_pass_an_independent_ome_ngff_validator(tiny: Path) -> None:
    images = [p.parent for p in tiny.rglob(".zattrs") if "multiscales" in json.loads(p.read_text())]
    groups = [p.parent for p in tiny.rglob(".zgroup")]
    assert len(images) > 30
    for path in images:
        image = Image.from_zarr(zarr.open_group(path, mode="r", zarr_format=2))
        assert [d.path for d in image.attributes.multiscales[0].datasets] == ["s0", "s1"]
    for path in groups:
        assert zarr.open_group(path, mode="r").metadata.zarr_format == 2
    for path in tiny.glob("*/*.zarr"):
        parents = {p for image in images if path in image.parents for p in image.parents if path in [p, *p.parents]}
        assert parents <= set(groups)


def test_arrays_are_laid_out_as_cellmap_does(tiny: Path) -> None:
    for path in tiny.rglob(".zarray"):
        spec = json.loads(path.read_text())
        assert spec["chunks"] == [64, 64, 64]
        assert spec["dimension_separator"] == "/"
        assert spec["fill_value"] == 0
        assert (spec["compressor"]["id"], spec["compressor"]["cname"]) == ("blosc", "zstd")


def test_translations_are_voxel_centres(tiny: Path) -> None:
    for group in [p.parent.parent for p in tiny.rglob("s1/.zarray")]:
        s0, s1 = transforms(group)
        half = [(b - a) / 2 for a, b in zip(s0["scale"], s1["scale"], strict=True)]
        shifted = [t + h for t, h in zip(s0["translation"], half, strict=True)]
        np.testing.assert_allclose(s1["translation"], shifted, atol=1e-5)
    example = multiscales("x", [2.62, 2, 2], [10, 20, 30])[0]["datasets"][1]["coordinateTransformations"]
    assert example[1]["translation"] == [11.31, 21, 31]


def test_crops_lie_inside_the_em_on_voxel_borders(tiny: Path) -> None:
    for _, crop, classes in split_rows(tiny):
        em_path = crop.parents[2] / "em/fibsem-uint8"
        em = zarr.open_group(em_path, mode="r", zarr_format=2)["s0"]
        label = zarr.open_group(crop / classes[0], mode="r", zarr_format=2)["s0"]
        outer, inner = transforms(em_path)[0], transforms(crop / classes[0])[0]
        step, own = np.array(outer["scale"]), np.array(inner["scale"])
        low = (np.array(inner["translation"]) - own / 2 - np.array(outer["translation"]) + step / 2) / step
        high = low + np.array(label.shape) * own / step
        np.testing.assert_allclose(low, np.rint(low), atol=1e-4)
        assert (low > -1e-6).all()
        assert (high < np.array(em.shape) + 1e-6).all()


def test_one_data_set_is_anisotropic_and_some_crops_are_finer_than_their_em(root: Path) -> None:
    scales = {tuple(transforms(p)[0]["scale"]) for p in root.glob("*/*.zarr/recon-1/em/fibsem-uint8")}
    assert {(8, 8, 8), (4, 4, 4), (5.24, 4, 4)} == scales
    labels = {tuple(transforms(crop / classes[0])[0]["scale"]) for _, crop, classes in split_rows(root)}
    assert labels - scales == {(2.62, 2, 2)}


def test_annotation_blocks_say_what_the_arrays_hold(tiny: Path) -> None:
    for _, crop, classes in split_rows(tiny):
        block = json.loads((crop / ".zattrs").read_text())["cellmap"]["annotation"]
        assert block["class_names"] == classes
        for name in classes:
            label, encoding = read_label(crop, name)
            attributes = json.loads((crop / name / "s0/.zattrs").read_text())["cellmap"]["annotation"]
            counts = {key: int((label == encoding[key]).sum()) for key in ("absent", "unknown")}
            assert attributes["complement_counts"] == counts
            assert attributes["class_name"] == name
            values = set(np.unique(label).tolist())
            assert name == "nuc" or values <= set(encoding.values())
            assert ("present" in encoding) == (name != "nuc")


def test_nuclei_are_instances_and_255_is_an_id_in_the_wide_type(root: Path) -> None:
    ids: dict[str, set[int]] = {"uint8": set(), "uint16": set()}
    for _, crop, classes in split_rows(root):
        if "nuc" in classes:
            label, encoding = read_label(crop, "nuc")
            ids[label.dtype.name] |= set(np.unique(label).tolist()) - set(encoding.values())
    assert len(ids["uint8"]) > 2
    assert max(ids["uint8"]) < 255
    assert min(ids["uint16"]) >= 255


def test_blocks_are_unknown_in_all_classes_of_a_crop_or_in_one(root: Path) -> None:
    kinds = Counter()
    for _, crop, classes in split_rows(root):
        blocks = [bool((read_label(crop, n)[0] == read_label(crop, n)[1]["unknown"]).any()) for n in classes]
        kinds["all" if all(blocks) else "one" if any(blocks) else "none"] += 1
        combined, _ = read_label(crop, "all")
        assert bool((combined == 255).any()) == all(blocks)
    assert min(kinds["all"], kinds["one"]) >= 2
    assert kinds["none"] > kinds["all"] + kinds["one"]


def test_an_em_chunk_is_missing_below_a_part_of_a_training_crop(root: Path) -> None:
    missing = []
    for em in root.glob("*/*.zarr/recon-1/em/fibsem-uint8"):
        shape = json.loads((em / "s0/.zarray").read_text())["shape"]
        indices = np.ndindex(*[-(-n // 64) for n in shape])
        missing += [(em, i) for i in indices if not em.joinpath("s0", *map(str, i)).exists()]
    assert len(missing) == 1
    em, index = missing[0]
    touched = []
    for side, crop, classes in split_rows(root):
        if side == "train" and em.parents[1] in crop.parents:
            inner = transforms(crop / classes[0])[0]
            shape = zarr.open_group(crop / classes[0], mode="r", zarr_format=2)["s0"].shape
            first = (np.array(inner["translation"]) - transforms(em)[0]["translation"]) / inner["scale"]
            inside = [
                (np.arange(n) + f >= i * 64) & (np.arange(n) + f < (i + 1) * 64)
                for n, f, i in zip(shape, first, index, strict=True)
            ]
            touched.append(np.prod([m.mean() for m in inside]))
    assert any(0 < share < 1 for share in touched)


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(tiny: Path, tmp_path: Path) -> None:
    again = phantom.make(tmp_path / "again", plan=TINY)
    other = phantom.make(tmp_path / "other", plan=SINGLE, seed=1)
    files = sorted(p.relative_to(tiny) for p in tiny.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((tiny / f).read_bytes() == (again / f).read_bytes() for f in files)
    em = f"{TINY.volumes[0].name}/{TINY.volumes[0].name}.zarr/{phantom.EM_PATH}/s0/0/0/0"
    assert (tiny / em).read_bytes() != (other / em).read_bytes()


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="never replaces"):
        phantom.make(tmp_path, plan=TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="thesis"):
        phantom.make(tmp_path / "thesis.txt", plan=TINY)


def test_a_failed_make_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(phantom, "_write_split", fail)
    with pytest.raises(OSError, match="disk full"):
        phantom.make(tmp_path / "data", plan=SINGLE)
    assert list(tmp_path.iterdir()) == []


def test_a_phantom_is_kept_when_complete_and_replaced_when_other(tmp_path: Path) -> None:
    root = phantom.make(tmp_path / "data", plan=SINGLE)
    stamp = (root / phantom.MARKER).stat().st_mtime_ns
    assert phantom.make(root, plan=SINGLE) == root
    assert (root / phantom.MARKER).stat().st_mtime_ns == stamp
    phantom.make(root, plan=SINGLE, seed=5)
    assert json.loads((root / phantom.MARKER).read_text())["seed"] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_ensure_builds_once_when_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_write = phantom._write
    monkeypatch.setattr(phantom, "Plan", lambda: SINGLE)
    monkeypatch.setattr(phantom, "_write", lambda *a: (calls.append(1), real_write(*a)))
    roots: list[Path] = []
    threads = [threading.Thread(target=lambda: roots.append(phantom.ensure(tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert {r.name for r in roots} == {f"phantom-v{phantom.VERSION}"}
    assert phantom.is_phantom(roots[0])
    assert not phantom.is_phantom(tmp_path)


def test_pooling_by_mean_and_by_majority() -> None:
    block = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8).reshape(2, 2, 2)
    assert majority_pool(block, 255).item() == 1
    block[0, 0, 0] = 0
    assert majority_pool(block, 255).item() == 0
    block[:] = 255
    block[0] = 7
    assert majority_pool(block, 255).item() == 255
    block[1, 1, 1] = 7
    assert majority_pool(block, 255).item() == 7
    assert mean_pool(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.uint8).reshape(2, 2, 2)).item() == 1
