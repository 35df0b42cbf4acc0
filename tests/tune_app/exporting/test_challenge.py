"""submission=challenge: arrays that the challenge's packer takes as they are, and nothing it does not ask for.

The packer is not on a package index. Its rules, read in janelia-cellmap/cellmap-segmentation-challenge at 6b9ad68
(utils/submission.py: package_crop; utils/matched_crop.py: MatchedCrop), are written out here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from documents import checked_end
from rich.console import Console
from tiny_export import NETWORKS, PATCH, exported

from tune_app.errors import InputError
from tune_app.exporting import predict as predict_module
from tune_app.exporting.challenge import MANIFEST, Submission, read_manifest_rows
from tune_app.exporting.predict import DataFolder, PredictSettings, predict, predict_and_print

sys.path.append(str(Path(__file__).parents[2] / "trainables" / "data"))
from volume_writer import write_em

ROWS = """crop_name,dataset,class_label,voxel_size,translation,shape
7,cells,nuc,[8.0;8.0;8.0],[100.0;140.0;180.0],[6;40;44]
7,cells,er,[8.0;8.0;8.0],[100.0;140.0;180.0],[6;40;44]
8,cells,nuc,[4.0;4.0;4.0],[98.0;138.0;178.0],[12;80;88]
8,cells,pm,[16.0;16.0;16.0],[104.0;144.0;184.0],[3;20;22]
9,cells,er,[8.0;8.0;8.0],[100.0;140.0;180.0],[6;40;44]
10,far,nuc,[8.0;8.0;8.0],[100.0;140.0;180.0],[6;40;44]
11,cells,pm,[8.0;8.0;8.0],[90000.0;140.0;180.0],[6;40;44]
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of classes nuc and pm."""
    return exported(tmp_path_factory.mktemp("best") / "1", NETWORKS[2], PATCH[2])


@pytest.fixture
def asked(checkpoint: Path, tmp_path: Path) -> Callable[..., PredictSettings]:
    em = np.random.default_rng(0).integers(0, 256, (12, 60, 70), np.uint8)
    write_em(tmp_path / "data", "cells", em, origin=(72, 80, 128))
    (tmp_path / "manifest.csv").write_text(ROWS)

    def settings(**given: Any) -> PredictSettings:
        words = {"checkpoint": str(checkpoint), "data": DataFolder(root=str(tmp_path / "data"))}
        words |= {"out": str(tmp_path / "out"), "submission": "challenge", "manifest": str(tmp_path / "manifest.csv")}
        return PredictSettings(**words | given)

    return settings


def packed(place: Path, voxel: np.ndarray, translation: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What MatchedCrop.load_aligned makes of an array, where it need not resample."""
    array = zarr.open_array(place, mode="r", zarr_format=2)
    assert np.allclose(array.attrs["voxel_size"], voxel)
    snapped = np.array(array.attrs["translation"]) // voxel * voxel
    shift = (np.abs(snapped - translation) // voxel) * np.sign(snapped - translation)
    assert not shift.any()
    assert array.shape == shape
    values: np.ndarray = array[:]
    return values


def test_the_packer_takes_every_array_as_it_lies(
    asked: Callable[..., PredictSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = checked_end("predict", predict_and_print(asked()))["crops"]
    assert [crop["place"] for crop in crops] == ["cells.zarr/crop7", "cells.zarr/crop8"]
    told = capsys.readouterr()
    assert "cells.zarr/crop8" in told.out
    assert f"csc pack-results -i '{tmp_path}/out/{{dataset}}.zarr/{{crop}}'" in told.out
    for left_out in ("classes is scored there (cells/crop9)", "no EM at", "outside the EM volume"):
        assert f"{left_out}" in told.err
    out = tmp_path / "out"
    found = {str(path.parent.relative_to(out)) for path in out.rglob(".zarray")}
    assert found == {"cells.zarr/crop7/nuc", "cells.zarr/crop8/nuc", "cells.zarr/crop8/pm"}
    assert {path.name for path in out.iterdir()} == {".zattrs", ".zgroup", "cells.zarr"}
    rows = read_manifest_rows(tmp_path / "manifest.csv")
    arrays = {}
    for name, label in (("crop7", "nuc"), ("crop8", "nuc"), ("crop8", "pm")):
        grid = rows["cells", name][label]
        centre = grid.corner + grid.voxel / 2
        arrays[name, label] = packed(out / "cells.zarr" / name / label, grid.voxel, centre, grid.shape)
        assert arrays[name, label].dtype == np.uint8
        assert set(np.unique(arrays[name, label])) == {0, 1}
        assert json.loads((out / "cells.zarr" / name / ".zgroup").read_text()) == {"zarr_format": 2}
    # All three begin at one corner. Voxels of half the size are linear between those of 8 nm.
    own, fine, coarse = arrays["crop7", "nuc"], arrays["crop8", "nuc"], arrays["crop8", "pm"]
    eroded = np.ones_like(own, bool)
    for axis in range(3):
        for shift in (-1, 1):
            eroded &= np.roll(own, shift, axis) == own
    inside = eroded[1:-1, 1:-1, 1:-1].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    wide = own[1:-1, 1:-1, 1:-1].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(fine[2:-2, 2:-2, 2:-2][inside], wide[inside])
    assert coarse.shape == (3, 20, 22)


def test_the_voxels_are_those_of_a_prediction_of_the_crop(
    asked: Callable[..., PredictSettings], checkpoint: Path, tmp_path: Path
) -> None:
    """Crop 7, at the network's own voxel size, and the same voxels as a stack, with the EM that lies round it."""
    predict(asked(crop="cells/crop7"))
    em = zarr.open_array(
        tmp_path / "data" / "cells" / "cells.zarr" / "recon-1" / "em" / "fibsem-uint8" / "s0", mode="r"
    )
    np.save(tmp_path / "em.npy", em[2:10, 6:48, 5:51])  # the crop and a voxel round it
    whole = predict(
        PredictSettings(
            checkpoint=str(checkpoint),
            volume=str(tmp_path / "em.npy"),
            voxel_nm=[8, 8, 8],
            out=str(tmp_path / "whole.zarr"),
        )
    )
    wanted = zarr.open_array(whole.out / "labels" / "nuc" / "s0", mode="r")[1:-1, 1:-1, 1:-1]
    found = zarr.open_array(tmp_path / "out" / "cells.zarr" / "crop7" / "nuc", mode="r")[:]
    np.testing.assert_array_equal(found, wanted)


def test_crops_that_are_done_are_not_predicted_again(
    asked: Callable[..., PredictSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    original = predict_module._predict_volume

    def watched(*given: Any) -> Any:
        names.append(given[2].crop)
        if fails and len(names) == 2:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(predict_module, "_predict_volume", watched)
    fails = True
    with pytest.raises(KeyboardInterrupt):
        predict(asked())
    fails = False
    done = predict(asked(), Console(quiet=True))
    assert isinstance(done, Submission)
    assert names == ["cells/crop7", "cells/crop8", "cells/crop8"]


def test_every_row_of_the_manifest_that_comes_with_it_is_read() -> None:
    """And none would be shifted by the packer."""
    rows = read_manifest_rows(MANIFEST)
    assert len(rows) == 16
    assert sum(map(len, rows.values())) == 413
    for grids in rows.values():
        for grid in grids.values():
            centre = grid.corner + grid.voxel / 2
            assert (np.abs(centre // grid.voxel * grid.voxel - centre) < grid.voxel).all()
    assert rows["jrc_zf-cardiac-1", "crop562"]["er_mem"].shape == (300, 300, 300)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crop": "crop99"}, "crop=crop99: is no test crop of the challenge. Choices: cells/crop7, cells/crop8"),
        ({"crop": "crop9"}, r"nothing to predict: none of the network's classes is scored there \(cells/crop9\)"),
        ({"crop": "far/crop10"}, r"nothing to predict: no EM at .*far.zarr.*fetch-data"),
        ({"crop": "11"}, "nothing to predict: lies outside the EM volume"),
        ({"manifest": "nowhere.csv"}, "manifest=nowhere.csv: cannot be read"),
        ({"manifest": __file__}, "is no test_crop_manifest.csv"),
    ],
)
def test_bad_input_is_a_sentence(asked: Callable[..., PredictSettings], given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(asked(**given))


def test_a_class_that_the_challenge_does_not_know_is_said(
    asked: Callable[..., PredictSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = exported(tmp_path / "one", NETWORKS[2], PATCH[2], classes=("nuc", "surface"))
    assert predict_and_print(asked(checkpoint=str(one), crop="crop7")).code == 0
    assert "note: the challenge does not score surface: left out" in capsys.readouterr().err
    none = exported(tmp_path / "none", NETWORKS[2], PATCH[2], classes=("surface", "fire"))
    with pytest.raises(
        InputError, match=r"scores none of the network's classes, surface, fire. Its classes: er, nuc, pm"
    ):
        predict(asked(checkpoint=str(none), out=str(tmp_path / "other")))
