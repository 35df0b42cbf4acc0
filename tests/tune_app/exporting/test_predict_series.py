"""A network of several channels applied to a series of rasters, the frame to come included."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from rich.console import Console
from tiny_export import CUT, Context, exported

from trainables.data.phantom import fire
from trainables.inference import Inference
from trainables.settings import DataSettings
from tune_app.exporting.predict import DataFolder, PredictSettings, predict
from tune_app.predict import main

STEPS, SIDE = 5, 80
DATA = DataSettings(name="raster_series", classes=["fire"], patch=[1, SIDE, SIDE], voxel_nm=[1, 1, 1])
NETWORK = Inference(Context(2, STEPS * len(fire.CHANNELS), 1), [0.1], in_channels=STEPS * len(fire.CHANNELS)).eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fire.make(
        tmp_path_factory.mktemp("fires") / "made", seed=3, plan=replace(fire.EDITIONS["small"], train=1, validate=1)
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = {"name": "binary", "options": {}}
    return exported(tmp_path_factory.mktemp("best") / "1", NETWORK, DATA.patch, ["fire"], DATA.name, task=task)


def windows(frames: np.ndarray) -> np.ndarray:
    """(T − 4, 25, H, W) grey values, in loops, by the ranges that the documentation gives."""
    low, high = (np.array(ends)[:, None, None] for ends in zip(*fire.RANGE.values()))
    grey = np.rint((frames.astype(np.float64).clip(low, high) - low) / (high - low) * 255).astype(np.uint8)
    return np.stack([np.concatenate([grey[d + t] for t in range(STEPS)]) for d in range(len(frames) - STEPS + 1)])


def test_all_windows_are_predicted_and_those_with_a_mask_are_scored(
    root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sorted(path for path in root.iterdir() if path.is_dir())[0]
    frames, mask = np.load(folder / "frames.npy"), np.load(folder / "mask.npy")
    console = Console(file=sys.stdout, width=200)
    asked = PredictSettings(
        checkpoint=str(checkpoint), crop=folder.name, out=str(tmp_path / "out.zarr"), data=DataFolder(root=str(root))
    )
    done = predict(asked, console)
    found = zarr.open_array(done.out / "labels" / "fire" / "s0", mode="r")[:] > 0
    assert found.shape == done.shape == (len(frames) - STEPS + 1, SIDE, SIDE)
    assert f"the last is frame {len(frames)}, to come" in capsys.readouterr().out
    with torch.no_grad():
        logits = NETWORK(torch.from_numpy(windows(frames)))[:, 0].numpy()
    clear = np.abs(logits - CUT[0]) > 1e-3
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], (logits > CUT[0])[clear])
    assert found[-1].any()
    tp = fp = fn = 0
    for d in range(len(frames) - STEPS):  # the frame to come has no mask
        truth, known = mask[d + STEPS] == 1, mask[d + STEPS] != 255
        tp += int((found[d] & truth & known).sum())
        fp += int((found[d] & ~truth & known).sum())
        fn += int((~found[d] & truth & known).sum())
    assert tp > 0
    assert done.dice == {"fire": pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("crop=nowhere", "crop=nowhere: there is no such crop. Choices: "),
        ("volume=stack.npy", "volume=stack.npy: a stack has one channel, and the network takes 25"),
        ("submission=challenge", "submission=challenge: data.name=raster_series is not in the CellMap layout"),
    ],
)
def test_bad_input_is_a_sentence(
    root: Path,
    checkpoint: Path,
    tmp_path: Path,
    given: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["predict", f"checkpoint={checkpoint}", f"data.root={root}", given])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "pred.zarr").exists()
