"""Predicting labelled volumes: the voxels as they were decoded for training, and Dice where somebody labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
import zarr
from tiny_export import CUT, exported

from trainables.errors import DataError
from trainables.inference import Inference
from tune_app.errors import InputError
from tune_app.exporting.predict import PredictSettings, predict

SHAPE = (11, 20, 17)
WINDOW = [1000, 5000]
LEVEL = 0.6
"""Grey value in [0, 1] at which the logit is that of the cut."""


class Bright(torch.nn.Module):
    """A voxel is surface where it is brighter than LEVEL: what it sees of its neighbours is nothing."""

    stride, spatial_dims = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 1, 1)
        with torch.no_grad():
            self.layer.weight.fill_(10.0)
            self.layer.bias.fill_(CUT[0] - 10 * LEVEL)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(image)
        return logits


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes a … e of uint16, one of them compressed."""
    folder = tmp_path_factory.mktemp("volumes")
    for number, name in enumerate("abcde"):
        rng = np.random.default_rng(number)
        for part, values in (
            ("images", rng.integers(0, 6000, SHAPE, dtype=np.uint16)),
            ("labels", rng.integers(0, 3, SHAPE, dtype=np.uint8)),
        ):
            (folder / part).mkdir(exist_ok=True)
            path = folder / part / f"{name}.tif"
            tifffile.imwrite(path, values, photometric="minisblack", compression="zlib" if name == "b" else None)
    return folder


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = {"root": str(root), "options": {"window": WINDOW}}
    return trained(tmp_path_factory.mktemp("best") / "1", [8, 8, 8], **given)


def trained(folder: Path, patch: list[int], **data: Any) -> Path:
    """An export whose network was trained on such data."""
    network = Inference(Bright(), [0.0]).eval()
    exported(folder, network, patch, ["surface"], "labelled_volumes", task={"name": "binary"})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= {"voxel_nm": [1, 1, 1], **data}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_volume_is_predicted_and_scored_where_it_is_labelled(
    root: Path, checkpoint: Path, tmp_path: Path, name: str
) -> None:
    found = predict(PredictSettings(checkpoint=str(checkpoint), crop=name, out=str(tmp_path / "out.zarr")))
    image, labels = (tifffile.imread(root / part / f"{name}.tif") for part in ("images", "labels"))
    grey = np.rint((image.clip(*WINDOW) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 255) / 255
    expected = grey > LEVEL
    sure = np.abs(grey - LEVEL) > 1e-4
    mask = zarr.open_array(tmp_path / "out.zarr" / "labels" / "surface" / "s0", mode="r")[:]
    np.testing.assert_array_equal(mask[sure], expected[sure])
    assert 0.2 < mask.mean() < 0.6
    known, true = labels != 2, labels == 1
    dice = 2 * (mask[true] > 0).sum() / ((mask[known] > 0).sum() + true.sum())
    assert found.dice["surface"] == pytest.approx(dice)
    about = json.loads((tmp_path / "out.zarr" / ".zattrs").read_text())["tune_app"]
    assert about["crop"] == name


def test_the_same_file_as_a_volume_is_the_same_prediction(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    given = {"volume": str(root / "images" / "a.tif"), "voxel_nm": [1.0, 1.0, 1.0], "intensity": WINDOW}
    for out, asked in (("crop", {"crop": "a"}), ("volume", given)):
        predict(PredictSettings(checkpoint=str(checkpoint), out=str(tmp_path / out), **asked))
    masks = [zarr.open_array(tmp_path / out / "labels" / "surface" / "s0", mode="r")[:] for out in ("crop", "volume")]
    np.testing.assert_array_equal(*masks)


def test_what_is_not_there_is_said(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.zarr")
    with pytest.raises(InputError, match=r"crop=z: there is no such crop\. Choices: a, b, c, d, e"):
        predict(PredictSettings(checkpoint=str(checkpoint), crop="z", out=out))
    settings = PredictSettings(checkpoint=str(checkpoint), crop="a", out=out)
    settings.data.root = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        predict(settings)


def test_generated_sheets_are_found_in_the_cache(checkpoint: Path, tmp_path: Path, shared_cache: Path) -> None:
    best = trained(tmp_path / "best" / "1", [16, 32, 32], cache_dir=str(shared_cache))
    found = predict(PredictSettings(checkpoint=str(best), crop="sheets00", out=str(tmp_path / "out.zarr")))
    assert found.shape == (64, 64, 64)
    assert 0.1 < found.dice["surface"] < 1
