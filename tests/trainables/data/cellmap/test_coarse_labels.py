"""Labels that are coarser than the target grid are left out, and that is said; or repeated on it, where asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from volume_writer import container, write_label

from trainables.data.cellmap.datasplit import write_split
from trainables.data.cellmap.reader import crop_grid, discover_crops
from trainables.data.check import check
from trainables.data.packed import open_packed
from trainables.data.sources import open_source
from trainables.errors import DataError, SettingsError

SLAB = np.ones((4, 8, 8), np.uint8)


@pytest.fixture
def mixed_root(small_root):
    """Beside four crops of 8 nm: one of 32 nm, one with nuclei in 16 nm and membranes in 8, one thick only in z."""
    write_label(small_root, "cells", "coarse", "nuc", SLAB, (32, 32, 32))
    write_label(small_root, "cells", "half", "nuc", SLAB, (16, 16, 16))
    write_label(small_root, "cells", "half", "pm", SLAB, (8, 8, 8))
    write_label(small_root, "cells", "thick", "nuc", SLAB, (20, 4, 4))
    return small_root


def classes_of(items) -> dict[str, tuple[str, ...]]:
    return {item.name.removeprefix("cells/"): item.classes for item in items}


def test_what_is_coarser_is_left_out_class_by_class(mixed_root, settings_for):
    source = open_source(settings_for(mixed_root))
    found = classes_of(source.items())
    assert "coarse" not in found
    assert found["half"] == ("pm",)
    assert found["thick"] == ("nuc",)
    assert found["crop1"] == ("nuc", "pm")
    (remark,) = source.remarks(source.items())
    assert "left out of 2 crops" in remark
    assert "data.voxel_nm=[8,8,8] (16 to 32 nm): nuc in 2;" in remark


def test_a_given_split_is_read_without_them_and_the_check_says_so(mixed_root, settings_for):
    crops = [replace(c, side="validate" if c.name.endswith("1") else "train") for c in discover_crops(mixed_root)]
    write_split(mixed_root / "datasplit.csv", crops)
    settings = settings_for(mixed_root)
    assert "coarse" not in classes_of(open_source(settings).items())
    told = [str(finding) for finding in check(settings)]
    assert any(line.startswith("info") and "left out of 2 crops" in line for line in told)
    assert "info: classes: nuc in 5 crops, pm in 5 crops" in told
    names = {crop.name.removeprefix("cells/") for crop in open_packed(settings).crops}
    assert names == {"crop1", "crop2", "crop3", "crop4", "half", "thick"}


def test_they_can_be_repeated_on_the_finer_grid(mixed_root, settings_for):
    settings = settings_for(mixed_root, options={"filter_by_scale": False})
    source = open_source(settings)
    found = {item.name: item for item in source.items()}
    assert source.remarks(source.items()) == []
    assert found["cells/half"].classes == ("nuc", "pm")
    assert crop_grid(found["cells/coarse"], ["nuc"], settings.voxel_nm).shape == (16, 32, 32)


def test_auto_names_no_class_that_only_coarse_crops_annotate(mixed_root, settings_for):
    write_label(mixed_root, "cells", "coarse", "ecs", SLAB, (32, 32, 32))
    assert open_source(settings_for(mixed_root, classes=["auto"])).annotated() == ["nuc", "pm"]


def test_nothing_left_is_refused_with_what_would_do(small_root, settings_for):
    with pytest.raises(DataError, match=r"of 8 nm at least\. Give data\.voxel_nm=\[8,8,8\], or data\.options"):
        open_source(settings_for(small_root, voxel_nm=[4.0, 4.0, 4.0])).items()
    (finding,) = check(settings_for(small_root, voxel_nm=[4.0, 4.0, 4.0]))
    assert (finding.level, "all labels of these classes" in finding.message) == ("error", True)


def test_the_largest_published_crop_costs_nothing(small_root, settings_for):
    """1500³ voxels of 32 nm would be 216 thousand million of 8 nm."""
    write_label(small_root, "cells", "vast", "nuc", SLAB, (32, 32, 32), (1e7, 0, 0))
    array = container(small_root, "cells") / "labels/groundtruth/vast/nuc/s0/.zarray"
    array.write_text(json.dumps(json.loads(array.read_text()) | {"shape": [1500, 1500, 1500], "chunks": [64, 64, 64]}))
    assert len(open_packed(settings_for(small_root)).crops) == 4
    with pytest.raises(DataError, match="6000 × 6000 × 6000 voxels"):
        open_packed(settings_for(small_root, options={"filter_by_scale": False}))


def test_only_yes_and_no(small_root, settings_for):
    with pytest.raises(SettingsError, match=r"data\.options\.filter_by_scale"):
        open_source(settings_for(small_root, options={"filter_by_scale": 16}))
