"""`check` names what is wrong with a data set and its split, and finds nothing wrong with a sound one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from volume_writer import container, write_label

from trainables.data.check import check


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def tree_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


def test_sound_data_is_sound_and_left_untouched(small_root, settings_for):
    before = tree_digest(small_root)
    findings = check(settings_for(small_root))
    assert levels(findings) == ["info", "info", "info"]
    assert "info: classes: nuc in 4 crops, pm in 4 crops" in map(str, findings)
    assert '4 crops hold at least one class: {"train": 3, "validate": 1}' in str(findings[-1])
    assert tree_digest(small_root) == before


def test_missing_root_is_a_finding(settings_for, tmp_path):
    (finding,) = check(settings_for(tmp_path / "nowhere"))
    assert finding.level == "error"
    assert "no such folder" in str(finding)


def test_every_fault_is_named_at_once(small_root, settings_for):
    labels = container(small_root, "cells") / "labels/groundtruth"
    write_label(small_root, "cells", "crop5", "pm", np.full((6, 8, 8), 255, np.uint8), origin=(0, 64, 64))
    (labels / "crop1/nuc/.zattrs").write_text("{")
    chunk = labels / "crop2/pm/s0/0/0/1"
    chunk.write_bytes(chunk.read_bytes()[:9])
    (container(small_root, "cells") / "em/fibsem-uint8/s0/0/1/8").unlink()
    zarr = small_root / "cells/cells.zarr"
    rows = [("train", "crop1"), ("train", "crop2"), ("validate", "crop3"), ("validate", "crop3"), ("train", "crop9")]
    (small_root / "datasplit.csv").write_text(
        "".join(
            f'"{side}","{zarr}/recon-1/em/fibsem-uint8","{zarr}/recon-1/labels/groundtruth/{crop}/[nuc,pm]"\n'
            for side, crop in [*rows, ("train", "crop5")]
        )
    )
    findings = check(settings_for(small_root, classes=["nuc", "pm", "golgi_mem"]))
    text = "\n".join(map(str, findings))
    for expected in (
        "crop3 appears 2 times",
        "crop9/ does not exist",
        "crop1/nuc/.zattrs cannot be read as JSON",
        "crop2/pm/s0/0/0/1 cannot be decoded",
        "warning: golgi_mem: no crop annotates this class",
        "warning: cells/crop3: no EM for",
        "warning: cells/crop5: no voxel is known",
    ):
        assert expected in text, text
    order = levels(findings)
    assert order == sorted(order, key=("error", "warning", "info").index)


def test_misspelled_and_one_sided_classes(small_root, settings_for):
    assert "Did you mean nuc" in str(check(settings_for(small_root, classes=["nucc"]))[0])
    write_label(small_root, "cells", "crop1", "golgi_mem", np.ones((6, 24, 24), np.uint8), origin=(0, 64, 64))
    text = "\n".join(map(str, check(settings_for(small_root, classes=["nuc", "golgi_mem"]))))
    assert "warning: golgi_mem: no crop on side validate holds this class" in text


def test_overlapping_crops_on_two_sides_are_a_warning_with_figures(small_root, settings_for):
    """crop5 is a quarter of crop1: 6 × 12 × 12 of 6 × 24 × 24 voxels of 8 nm."""
    write_label(small_root, "cells", "crop5", "pm", np.ones((6, 12, 12), np.uint8), origin=(0, 64, 64))
    settings = settings_for(small_root)
    (told,) = [f for f in check(settings) if "they share" in str(f)]
    assert told.level == "info"
    zarr = small_root / "cells/cells.zarr"
    sides = {"crop1": "validate", "crop2": "train", "crop5": "train"}
    rows = [
        f'"{side}","{zarr}/recon-1/em/fibsem-uint8","{zarr}/recon-1/labels/groundtruth/{crop}/[nuc,pm]"\n'
        for crop, side in sides.items()
    ]
    (small_root / "datasplit.csv").write_text("".join(rows))
    text = [str(finding) for finding in check(settings) if finding.level == "warning"]
    assert any("LEAK: 25 % of the validation volume" in line for line in text)
    pair = "cells/crop1 (validate) and cells/crop5 (train): they share 0.0004424 µm³, 100 % of the smaller"
    assert f"warning: {pair}" in text


def test_a_split_file_of_which_nothing_exists_is_told_row_by_row(small_root, settings_for):
    """Not that no crop annotates the classes."""
    (small_root / "datasplit.csv").write_text(
        '"train","/gone/b.zarr","em/fibsem-uint8","/gone/b.zarr","labels/groundtruth/crop1/[nuc]"\n' * 2
    )
    findings = check(settings_for(small_root))
    assert levels(findings) == ["error", "error"]
    assert all("/gone/b.zarr/em/fibsem-uint8 does not exist" in str(finding) for finding in findings)
