"""datasplit.csv: both forms, what is refused, and how one is drawn."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volume_writer import container, write_em, write_label

from trainables.data.cellmap.datasplit import make_split, moved, parse_split, read_split, split_remarks, write_split
from trainables.data.cellmap.overlap import first_of_group, leak
from trainables.data.cellmap.reader import CropSource, discover_crops
from trainables.data.sources import open_source
from trainables.errors import DataError
from trainables.settings import DataSettings


def row(root: Path, crop: str, side: str = "train", classes: str = "nuc,pm") -> list[str]:
    zarr = str(root / "cells/cells.zarr")
    return [side, zarr, "recon-1/em/fibsem-uint8/", zarr, f"recon-1/labels/groundtruth/{crop}/[{classes}]"]


def write_rows(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    return path


def test_five_and_three_columns_and_the_test_side(small_root, tmp_path):
    five = row(small_root, "crop2", "validate", "pm")
    three = ["test", f"{five[1]}/recon-1/em/fibsem-uint8/s0", f"{five[3]}/recon-1/labels/groundtruth/crop3/[nuc, pm]"]
    found = read_split(write_rows(tmp_path / "s.csv", [row(small_root, "crop1"), five, three]))
    assert [(s.name, s.side, s.classes) for s in found] == [
        ("cells/crop1", "train", ("nuc", "pm")),
        ("cells/crop2", "validate", ("pm",)),
        ("cells/crop3", "test", ("nuc", "pm")),
    ]
    assert {s.em for s in found} == {container(small_root, "cells") / "em/fibsem-uint8"}


def test_relative_paths_are_found_under_the_root(small_root, tmp_path):
    relative = [cell.replace(f"{small_root}/", "") for cell in row(small_root, "crop1")]
    assert read_split(write_rows(tmp_path / "s.csv", [relative]), small_root)[0].name == "cells/crop1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: [r("crop1"), r("crop1")], "crop1 appears 2 times; keep one row"),
        (lambda r: [r("crop1"), r("crop1", "validate")], "on the sides train and validate"),
        (lambda r: [r("crop1"), r("crop9")], r"line 2: .*crop9/ does not exist"),
        (lambda r: [r("crop1", "training")], "side 'training'; choose one of train, validate, test"),
        (lambda r: [r("crop1", classes="golgi_mem")], r"annotates none of \[golgi_mem\]; it annotates nuc, pm"),
        (lambda r: [r("crop1")[:4]], "line 1: 4 columns; 5 or 3 are needed"),
        (lambda r: [[*r("crop1")[:4], "recon-1/labels/groundtruth/crop1"]], "classes in brackets"),
        (lambda r: [], "has no rows"),
    ],
)
def test_refused(small_root, tmp_path, change, message):
    rows = change(lambda *a, **k: row(small_root, *a, **k))
    with pytest.raises(DataError, match=message):
        read_split(write_rows(tmp_path / "s.csv", rows))


def test_one_crop_under_two_names_is_one_crop(small_root, tmp_path):
    (tmp_path / "link").symlink_to(small_root)
    rows = [row(small_root, "crop1"), row(tmp_path / "link", "crop1", "validate")]
    with pytest.raises(DataError, match="on the sides train and validate"):
        read_split(write_rows(tmp_path / "s.csv", rows))


def test_many_problems_are_cut_short(small_root, tmp_path):
    with pytest.raises(DataError, match="… and 4 more"):
        read_split(write_rows(tmp_path / "s.csv", [row(small_root, f"none{n}") for n in range(9)]))


def test_named_file_must_exist(small_root, settings_for, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_source(settings_for(small_root, split_file=str(tmp_path / "no.csv"))).items()


def test_file_beside_the_data_is_used(small_root, settings_for):
    write_rows(small_root / "datasplit.csv", [row(small_root, "crop4"), row(small_root, "crop1", "validate")])
    found = open_source(settings_for(small_root)).items()
    assert {s.name: s.side for s in found} == {"cells/crop4": "train", "cells/crop1": "validate"}


def test_written_file_round_trips_quoted_without_header(small_root, tmp_path):
    crops = [CropSource(s.name, s.em, s.labels, s.classes, "train") for s in discover_crops(small_root)]
    write_split(tmp_path / "x/datasplit.csv", crops)
    write_split(tmp_path / "x/datasplit.csv", crops)
    lines = (tmp_path / "x/datasplit.csv").read_text().splitlines()
    assert len(lines) == 4
    assert all(line.startswith('"train","') and line.endswith('/[nuc,pm]"') for line in lines)
    assert read_split(tmp_path / "x/datasplit.csv") == crops
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["datasplit.csv"]


def test_made_once_and_read_afterwards(small_root, settings_for, tmp_path):
    settings = settings_for(small_root)
    first = make_split(settings, discover_crops(small_root), tmp_path / "splits")
    (path,) = (tmp_path / "splits").iterdir()
    stamp = path.stat().st_mtime_ns
    assert make_split(settings, discover_crops(small_root)[::-1], tmp_path / "splits") == first
    assert path.stat().st_mtime_ns == stamp
    assert sorted(s.side for s in first) == ["train", "train", "train", "validate"]


def synthetic(tmp_path: Path, layout: dict[str, str]) -> list[CropSource]:
    """Crops whose classes are given as words; the arrays are one voxel, one beside the other."""
    for number, (name, classes) in enumerate(layout.items()):
        dataset, crop = name.split("/")
        for label in classes.split():
            write_label(tmp_path, dataset, crop, label, np.ones((1, 1, 1), np.uint8), origin=(0, 0, 8 * number))
    for dataset in {name.split("/")[0] for name in layout}:
        write_em(tmp_path, dataset, np.ones((1, 1, 1), np.uint8))
    return discover_crops(tmp_path)


def drawn_of(tmp_path: Path, crops: list[CropSource], **settings: Any) -> list[CropSource]:
    return make_split(DataSettings(**settings), crops, tmp_path / "splits")


def test_every_class_on_both_sides_where_two_crops_hold_it(tmp_path):
    layout = {f"a/crop{n}": "nuc" for n in range(8)}
    layout |= {"a/crop8": "nuc pm", "a/crop9": "pm", "b/crop1": "golgi_mem"}
    crops = synthetic(tmp_path, layout)
    for seed in range(10):
        drawn = make_split(
            DataSettings(classes=["nuc", "pm", "golgi_mem"], split_seed=seed), crops, tmp_path / "splits"
        )
        sides = {side: {c for s in drawn if s.side == side for c in s.classes} for side in ("train", "validate")}
        assert sides["train"] == {"nuc", "pm", "golgi_mem"}
        assert sides["validate"] == {"nuc", "pm"}
        assert sum(s.side == "validate" for s in drawn) in (1, 2)


def test_seed_decides_and_order_of_crops_does_not(tmp_path):
    crops = synthetic(tmp_path, {f"a/crop{n}": "nuc" for n in range(12)})
    drawn = [drawn_of(tmp_path, crops, classes=["nuc"], split_seed=seed) for seed in range(6)]
    assert drawn_of(tmp_path, crops[::-1], classes=["nuc"]) == drawn[0]
    assert len({tuple(s.side for s in split) for split in drawn}) > 1
    assert all(sum(s.side == "validate" for s in split) == 2 for split in drawn)


def test_split_by_dataset_keeps_data_sets_together(tmp_path):
    crops = synthetic(tmp_path, {f"{d}/crop{n}": "nuc" for d in "abcd" for n in range(3)})
    drawn = drawn_of(tmp_path, crops, classes=["nuc"], split_by_dataset=True)
    by_dataset = {d: {s.side for s in drawn if s.name.startswith(d)} for d in "abcd"}
    assert all(len(sides) == 1 for sides in by_dataset.values())
    assert sorted(side for sides in by_dataset.values() for side in sides) == ["train"] * 3 + ["validate"]


def test_annotated_but_absent_does_not_count_as_holding_a_class(tmp_path):
    """pm is annotated in three crops, but one of them has none: it must not be the validation side's only one."""
    crops = synthetic(
        tmp_path, {"a/crop1": "nuc pm", "a/crop2": "nuc pm", **{f"a/crop{n}": "nuc" for n in range(3, 9)}}
    )
    empty = {"absent": 1, "unknown": 0}
    write_label(tmp_path, "a", "crop9", "pm", np.zeros((1, 1, 1), np.uint8), (8, 8, 8), (8, 0, 0), complement=empty)
    crops = discover_crops(tmp_path)
    for seed in range(10):
        drawn = drawn_of(tmp_path, crops, classes=["nuc", "pm"], split_seed=seed)
        assert {s.side for s in drawn if s.name in ("a/crop1", "a/crop2")} == {"train", "validate"}


def test_one_crop_cannot_be_split(tmp_path):
    crops = synthetic(tmp_path, {"a/crop1": "nuc"})
    with pytest.raises(DataError, match="a split needs two"):
        drawn_of(tmp_path, crops, classes=["nuc"])


def test_crops_without_a_wanted_class_are_left_out(tmp_path):
    crops = synthetic(tmp_path, {"a/crop1": "nuc", "a/crop2": "nuc", "a/crop3": "er_mem"})
    drawn = drawn_of(tmp_path, crops, classes=["nuc"])
    assert [s.name for s in drawn] == ["a/crop1", "a/crop2"]


def test_a_class_without_labels_is_remarked_upon(small_root, tmp_path):
    rows = [row(small_root, "crop1", classes="nuc,pm"), row(small_root, "crop2", classes="pm,mito_foo")]
    (remark,) = split_remarks(write_rows(tmp_path / "s.csv", rows))
    assert "line 2" in remark
    assert "mito_foo" in remark


def test_crops_that_share_voxels_are_never_split(foreign_root, tmp_path):
    """Seven crops lie in a large one: whatever the seed, all eight are on one side, and the rest are still drawn."""
    crops = discover_crops(foreign_root)
    drawn = [drawn_of(tmp_path, crops, split_seed=seed) for seed in range(6)]
    for split in drawn:
        assert {s.side for s in split if s.name.startswith("liver-c")} == {"train"}
        assert not leak(split, DataSettings().classes)
    assert len({tuple(s.side for s in split) for split in drawn}) > 1


def test_crops_connected_through_a_third_are_one_group_and_those_that_touch_are_not(tmp_path):
    """Along x: 0–3, 2–5, 4–7 overlap in a chain, 7–9 touches; a crop of another EM volume overlaps none of them."""
    for crop, first, length in (("crop1", 0, 3), ("crop2", 4, 3), ("crop3", 2, 3), ("crop4", 7, 2)):
        write_label(tmp_path, "a", crop, "nuc", np.ones((1, 1, length), np.uint8), origin=(0, 0, 8 * first))
    write_label(tmp_path, "b", "crop1", "nuc", np.ones((1, 1, 9), np.uint8))
    crops = discover_crops(tmp_path)
    assert first_of_group(crops, ["nuc"]) == ["a/crop1", "a/crop1", "a/crop1", "a/crop4", "b/crop1"]
    with pytest.raises(DataError, match="a split needs two"):
        drawn_of(tmp_path, crops[:3], classes=["nuc"])


def test_without_overlaps_a_split_drawn_earlier_is_found_again(small_root, settings_for, tmp_path):
    """The name of its file is a hash of what was asked; it must not change for crops that share nothing."""
    crops = discover_crops(small_root)
    settings = settings_for(small_root)
    asked = {
        "crops": [[str(crop.labels), crop.classes] for crop in crops],
        "classes": ["nuc", "pm"],
        "draw": [0.25, 0, False],
    }
    make_split(settings, crops, tmp_path / "splits")
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    assert [p.name for p in (tmp_path / "splits").iterdir()] == [f"datasplit-{digest}.csv"]


def test_a_leak_is_told_with_its_figures(tmp_path):
    """Validation: 0–6, of which training's 0–2 and 1–3 cover 3 of 6, and 20–26, which nothing covers: 25 %."""
    boxes = {"crop1": (0, 6), "crop2": (0, 2), "crop3": (1, 2), "crop4": (20, 6)}
    for crop, (first, length) in boxes.items():
        write_label(tmp_path, "a", crop, "nuc", np.ones((1, 1, length), np.uint8), origin=(0, 0, 8 * first))
    sides = ("validate", "train", "train", "validate")
    split = [replace(crop, side=side) for crop, side in zip(discover_crops(tmp_path), sides)]
    assert leak(split, ["nuc"]).startswith(
        "LEAK: 25 % of the validation volume is training volume too (1 of 2 validation crops: a/crop1 50 %)"
    )
    assert not leak([replace(crop, side="train") for crop in split], ["nuc"])


def test_folders_of_another_machine_are_found_by_data_set_and_crop(small_root, tmp_path):
    rows = [row(Path("/nearby/elsewhere"), "crop1"), row(small_root, "crop2", "validate")]
    found = read_split(write_rows(tmp_path / "s.csv", rows), small_root)
    assert [(s.name, s.moved) for s in found] == [("cells/crop1", True), ("cells/crop2", False)]
    assert found[0].labels == container(small_root, "cells") / "labels/groundtruth/crop1"
    assert found[0].em == container(small_root, "cells") / "em/fibsem-uint8"
    assert moved(found).startswith("the split file names folders that do not exist here: 1 of 2 crops")
    assert not moved(found[1:])


def test_folders_of_another_machine_that_are_not_here_are_named(small_root, tmp_path):
    rows = [row(Path("/nearby/elsewhere"), "crop9")]
    wanted = r"elsewhere/cells/.*does not exist, and there is no cells/cells.zarr/.*crop9 in .*data\.root"
    with pytest.raises(DataError, match=wanted):
        read_split(write_rows(tmp_path / "s.csv", rows), small_root)


@pytest.mark.parametrize("content", [b'"train","\xff"\n', b"a" * 200_000])
def test_a_file_of_other_bytes_is_one_problem(tmp_path, content):
    path = tmp_path / "datasplit.csv"
    path.write_bytes(content)
    sources, (problem,) = parse_split(path)
    assert sources == split_remarks(path) == []
    assert problem.startswith(f"{path} cannot be read as CSV")
