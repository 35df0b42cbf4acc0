"""The packed cache: contents, key, damage, and two processes that start together."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from filelock import FileLock
from volume_writer import container, write_em, write_label

from trainables.data import named_classes, open_packed, packed
from trainables.data.cellmap.reader import discover_crops
from trainables.data.expand import class_masks
from trainables.data.packed import is_open, remove_packed, usable_items
from trainables.data.packing import shaping_settings
from trainables.data.phantom import generate as phantom
from trainables.data.sources import open_source
from trainables.errors import DataError, SettingsError


def test_round_trip(small_root, settings_for):
    """What was written as Zarr is what the memory maps hold, bit by bit, with the EM round it."""
    dataset = open_packed(settings_for(small_root))
    assert [crop.name for crop in dataset.crops] == [f"cells/crop{n}" for n in range(1, 5)]
    for number, crop in enumerate(dataset.crops):
        source = next(source for source in discover_crops(small_root) if source.name == crop.name)
        for index, name in enumerate(dataset.classes):
            truth = np.asarray(zarr.open_array(source.labels / name / "s0", mode="r")[:]) == 1
            present, known = class_masks(crop.labels, index, 2)
            np.testing.assert_array_equal(present, truth)
            assert known.all()
            assert crop.positive[index] == truth.sum()
            assert all(truth[tuple(p)] for p in crop.positions[index][: min(crop.positive[index], 1024)])
        assert crop.offset == (0, -4, -4)
        np.testing.assert_array_equal(crop.em[0, 0], np.arange(4 + number * 24, 4 + number * 24 + 32) + 1)
        assert isinstance(crop.em, np.memmap)
        assert not crop.labels.flags.writeable


def test_counts_are_sums_over_one_side(small_root, settings_for):
    dataset = open_packed(settings_for(small_root))
    train = [crop for crop in dataset.crops if crop.side == "train"]
    counts = dataset.counts()
    assert counts["classes"] == ["nuc", "pm"]
    assert counts["known"] == [3 * 6 * 24 * 24] * 2
    assert counts["positive"] == [int(sum(c.positive[i] for c in train)) for i in range(2)]
    assert dataset.counts("test") == {"classes": ["nuc", "pm"], "positive": [0, 0], "known": [0, 0]}


def test_second_opening_reads_the_same_cache(small_root, settings_for):
    settings = settings_for(small_root)
    first = open_packed(settings)
    stamp = (first.folder / "index.json").stat().st_mtime_ns
    again = open_packed(settings_for(small_root, sampling="volume", mirror=False))
    assert again.folder == first.folder
    assert (again.folder / "index.json").stat().st_mtime_ns == stamp
    assert again.settings.sampling == "volume"


def test_key_and_fingerprint_follow_content(small_root, settings_for):
    """A changed label chunk, split side or class order is another cache and another fingerprint."""
    first = open_packed(settings_for(small_root))
    seen = {(first.folder.name, first.fingerprint)}
    for more in ({"classes": ["pm", "nuc"]}, {"split_seed": 3}, {"voxel_nm": [8.0, 16.0, 16.0]}):
        other = open_packed(settings_for(small_root, **more))
        seen.add((other.folder.name, other.fingerprint))
    chunk = container(small_root, "cells") / "labels/groundtruth/crop1/nuc/s0/0/0/0"
    chunk.unlink()
    changed = open_packed(settings_for(small_root))
    seen.add((changed.folder.name, changed.fingerprint))
    assert len({key for key, _ in seen}) == len({mark for _, mark in seen}) == 5


def test_fingerprint_does_not_depend_on_place_or_time(small_root, settings_for):
    first = open_packed(settings_for(small_root))
    moved = small_root.rename(small_root.with_name("elsewhere"))
    os.utime(container(moved, "cells") / "em/fibsem-uint8/.zattrs", (1, 1))
    second = open_packed(settings_for(moved))
    assert second.folder != first.folder
    assert second.fingerprint == first.fingerprint


def test_caches_and_checkpoints_of_earlier_versions_stay_valid(small_root, settings_for):
    """The fingerprint that these volumes had before there were several sources."""
    known = "f03c67eb7cf43715fe6b308f2c3a11e7a17e64b2e1c6207172c4cd3b2c7b8de1"
    assert open_packed(settings_for(small_root)).fingerprint == known
    assert set(shaping_settings(settings_for(small_root))) == {
        "version",
        "classes",
        "voxel_nm",
        "patch",
        "label_resampling",
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"name": "bogus"}, "data.name=bogus: choose one of cellmap, classified_volumes, labelled_volumes, phantom"),
        ({"options": {"bogus": 1}}, "data.options.bogus=1: data.options has no such setting. Choices: filter_by_scale"),
    ],
)
def test_an_unknown_source_or_option_is_refused(small_root, settings_for, more, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        open_packed(dataclasses.replace(settings_for(small_root), **more))


def test_missing_em_chunks_are_not_counted(small_root, settings_for):
    (container(small_root, "cells") / "em/fibsem-uint8/s0/0/1/1").unlink()
    crop = open_packed(settings_for(small_root)).crops[0]
    known = class_masks(crop.labels, 0, 2)[1]
    assert not known[:, :8, :8].any()
    assert known.sum() == crop.known[0] == 6 * (24 * 24 - 64)


def test_unannotated_class_is_named_and_alone_refused(small_root, settings_for, caplog):
    open_packed(settings_for(small_root, classes=["nuc", "golgi_mem"]))
    assert "golgi_mem" in caplog.text
    with pytest.raises(DataError, match="no crop annotates any of them"):
        open_packed(settings_for(small_root, classes=["golgi_mem"]))


def test_misspelled_class_is_refused_with_the_nearest_name(small_root, settings_for):
    with pytest.raises(DataError, match=r"mito_men is no class of this data\. Did you mean mito_mem"):
        open_packed(settings_for(small_root, classes=["nuc", "mito_men"]))


@pytest.mark.parametrize(("root", "message"), [("", "data.root is empty"), ("/no/such/folder", "no such folder")])
def test_missing_root(settings_for, root, message):
    settings = settings_for(Path("x"))
    settings.root = root
    with pytest.raises(DataError, match=message):
        open_packed(settings)


def test_damage_leaves_no_half_cache_and_can_be_mended(small_root, settings_for, tmp_path):
    chunk = container(small_root, "cells") / "labels/groundtruth/crop2/pm/s0/0/1/1"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="pm/s0/0/1/1 cannot be decoded"):
        open_packed(settings_for(small_root))
    assert [p.name for p in (tmp_path / "cache/packed").iterdir() if p.is_dir()] == []
    chunk.write_bytes(whole)
    assert len(open_packed(settings_for(small_root)).crops) == 4


@pytest.mark.parametrize(
    ("depth", "more", "says"),
    [
        (10**12, {}, "voxels of [8.0, 8.0, 8.0] nm"),
        (10**6, {}, "chunks, 1000000 at most"),
        (1, {"voxel_nm": [1e-9] * 3, "options": {"filter_by_scale": False}}, "Give larger ones (data.voxel_nm)"),
    ],
)
def test_a_crop_larger_than_any_machine_is_refused(small_root, settings_for, tmp_path, depth, more, says):
    (path,) = small_root.glob("*/*.zarr/recon-1/labels/groundtruth/crop1/nuc/s0/.zarray")
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"shape": [depth, *meta["shape"][1:]], "chunks": [1, 1, 1]}))
    with pytest.raises(DataError) as error:
        open_packed(settings_for(small_root, **more))
    assert says in str(error.value)
    assert not (tmp_path / "cache" / "packed").exists()


def test_cache_folder_that_cannot_be_made(small_root, settings_for, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    rows = "\n".join(
        f'"{side}","{small_root}/cells/cells.zarr/recon-1/em/fibsem-uint8",'
        f'"{small_root}/cells/cells.zarr/recon-1/labels/groundtruth/{crop}/[nuc,pm]"'
        for side, crop in (("train", "crop1"), ("validate", "crop2"))
    )
    (small_root / "datasplit.csv").write_text(rows)
    with pytest.raises(DataError, match="cannot be written"):
        open_packed(settings_for(small_root))


@pytest.mark.parametrize(
    ("written", "owner", "name"),
    [
        ("splits", os, "mkdir"),
        ("splits", os, "replace"),
        ("splits", csv, "writer"),
        ("packed", os, "mkdir"),
        ("packed", os, "replace"),
        ("packed", np, "save"),
        ("packed", FileLock, "acquire"),
        ("phantom", os, "mkdir"),
        ("phantom", os, "replace"),
        ("phantom", FileLock, "acquire"),
        ("phantom", phantom, "_write"),
    ],
)
def test_a_cache_that_is_full_is_one_sentence_and_keeps_nothing_half(
    small_root, settings_for, tmp_path, monkeypatch, written, owner, name
):
    """Full at a step of making a split, a packed cache, or the phantom."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "cache").mkdir()
    settings = settings_for(small_root)
    if written == "packed":
        usable_items(open_source(settings))
    if written == "phantom":
        settings = dataclasses.replace(settings, name="phantom", root="")
        monkeypatch.setattr(phantom, "_write", lambda *_: None)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(DataError, match=r"The cache folder .*cache.* cannot be written \(No space left on device"):
        open_packed(settings)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert [path.parent.name for path in left] == (["splits"] if written == "packed" else [])


def test_leftovers_of_a_killed_build_are_removed(small_root, settings_for):
    settings = settings_for(small_root)
    folder = open_packed(settings).folder
    dead = folder.with_name(f"{folder.name}.building-99999")
    folder.rename(dead)
    (dead / "index.json").unlink()
    assert len(open_packed(settings).crops) == 4
    assert not dead.exists()


OPEN = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from trainables.data import open_packed, packed
from trainables.settings import DataSettings
settings = DataSettings(**json.loads(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
dataset = open_packed(settings)
print(dataset.fingerprint, sum(int(crop.em.sum()) + int(crop.labels.sum()) for crop in dataset.crops))
"""


def test_two_processes_build_once_and_see_the_whole(small_root, settings_for):
    argument = json.dumps(dataclasses.asdict(settings_for(small_root)))
    start = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, argument], stdin=-1, stdout=-1, stderr=-1, text=True, cwd=Path.cwd()
        )
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in start] == ["ready\n", "ready\n"]
    for process in start:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in start]
    assert [process.returncode for process in start] == [0, 0], ends
    assert ends[0][0] == ends[1][0] != ""
    assert sum(err.count("Packing 4 crops") for _, err in ends) == 1


def test_3d_patch_keeps_em_above_and_below(tmp_path, settings_for):
    root = tmp_path / "data"
    em = np.broadcast_to(np.arange(32)[:, None, None] + 1, (32, 24, 24)).astype(np.uint8)
    write_em(root, "a", em)
    for crop, z in (("crop1", 8), ("crop2", 16)):
        write_label(root, "a", crop, "nuc", np.ones((4, 16, 16), np.uint8), origin=(8 * z, 32, 32))
    crop = open_packed(settings_for(root, classes=["nuc"], patch=[8, 8, 8])).crops[0]
    assert crop.offset[0] == -4
    np.testing.assert_array_equal(crop.em[:, 0, 0], np.arange(4, 16) + 1)


def test_a_cache_that_somebody_has_open_is_not_removed(small_root, settings_for):
    settings = settings_for(small_root)
    dataset = open_packed(settings)
    folder, total = dataset.folder, sum(int(crop.em.sum()) for crop in dataset.crops)
    assert is_open(folder)
    assert not remove_packed(folder)
    assert len(open_packed(settings).crops) == 4
    del dataset
    assert not is_open(folder)
    assert remove_packed(folder)
    assert [path.name for path in folder.parent.iterdir()] == [f"{folder.name}.lock"]
    assert sum(int(crop.em.sum()) for crop in open_packed(settings).crops) == total


def test_opening_a_cache_marks_it_as_used(small_root, settings_for):
    folder = open_packed(settings_for(small_root)).folder
    os.utime(folder, (1e9, 1e9))
    open_packed(settings_for(small_root))
    assert folder.stat().st_mtime > 1.7e9


def test_a_cache_removed_while_it_is_being_opened_is_built_again(small_root, settings_for, monkeypatch):
    settings = settings_for(small_root)
    folder = open_packed(settings).folder
    monkeypatch.setattr(packed, "mark_used", lambda folder: monkeypatch.undo() or remove_packed(folder))
    assert len(open_packed(settings).crops) == 4
    next(folder.glob("*.em.npy")).unlink()
    with pytest.raises(FileNotFoundError):
        open_packed(settings)


def test_auto_is_every_class_that_the_crops_of_the_split_annotate(small_root, settings_for):
    assert named_classes(settings_for(small_root)).classes == ["nuc", "pm"]
    write_label(small_root, "cells", "crop1", "ecs", np.ones((6, 24, 24), np.uint8), origin=(0, 64, 64))
    settings = settings_for(small_root, classes=["auto"])
    assert named_classes(settings).classes == ["ecs", "nuc", "pm"]
    zarr = small_root / "cells/cells.zarr"
    (small_root / "datasplit.csv").write_text(
        f"train,{zarr}/recon-1/em/fibsem-uint8,{zarr}/recon-1/labels/groundtruth/crop2/[pm]\n"
    )
    assert named_classes(settings).classes == ["pm"]
