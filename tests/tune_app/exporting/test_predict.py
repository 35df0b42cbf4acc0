"""An export applied to crops and volumes: the evaluator's figures, one result whatever the blocks, and OME-Zarr."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from documents import checked_end
from filelock import FileLock
from monai.data.utils import compute_importance_map
from ome_zarr_models.v04.image_label import ImageLabel
from tiny_export import CLASSES, CUT, NETWORKS, PATCH, exported

from trainables import metrics
from trainables.data import expand_labels, open_packed
from trainables.data.cellmap.ngff import read_levels
from trainables.data.cellmap.reader import discover_crops
from trainables.data.sampling import cut
from trainables.inference import Inference, inference
from trainables.models import build
from trainables.settings import DataSettings, network_preset, trial_settings
from trainables.tiling import MOST_LOGITS, block_shape, span, step
from tune_app.errors import InputError
from tune_app.exporting import blocks
from tune_app.exporting import volume as volume_module
from tune_app.exporting.predict import DataFolder, PredictSettings, predict, predict_and_print
from tune_app.exporting.trained_model import read_model
from tune_app.predict import main

sys.path.append(str(Path(__file__).parents[2] / "trainables" / "data"))
from volume_writer import write_em, write_label, write_small


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By spatial dimensions."""
    place = tmp_path_factory.mktemp("best")
    return {dims: exported(place / str(dims), NETWORKS[dims], PATCH[dims]) for dims in (2, 3)}


@pytest.fixture
def checkpoint(exports: dict[int, Path]) -> Path:
    return exports[2]


@pytest.fixture
def asked(checkpoint: Path, tmp_path: Path) -> Callable[..., PredictSettings]:
    def settings(**given: Any) -> PredictSettings:
        data = DataFolder(root=str(tmp_path / "data"))
        return PredictSettings(
            **{"checkpoint": str(checkpoint), "out": str(tmp_path / "pred.zarr"), "data": data, **given}
        )

    return settings


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written(out: Path) -> np.ndarray:
    """Masks (C, D, H, W)."""
    return np.stack([zarr.open_array(out / "labels" / name / "s0", mode="r")[:] for name in CLASSES]) > 0


def blended(network: Inference, em: np.ndarray, window: list[int], overlap: float) -> np.ndarray:
    """Logits (C, D, H, W) of em (D, H, W), as large as a window at least: all windows one by one, in float64."""
    total, norm = np.zeros((2, *em.shape)), np.zeros(em.shape)
    flat = network.spatial_dims == 2
    plane = compute_importance_map(tuple(window[1:]), mode="gaussian", sigma_scale=0.125).double().numpy()
    along = compute_importance_map((window[0],), mode="gaussian", sigma_scale=0.125).double().numpy()
    weight = along[:, None, None] * plane
    axes = [sorted({*range(0, n - w, step(w, overlap)), n - w}) for n, w in zip(em.shape, window)]
    for start in itertools.product(*axes):
        box = tuple(slice(a, a + w) for a, w in zip(start, window))
        image = torch.from_numpy(em[box])[None, None]
        with torch.no_grad():
            logits = network(image[:, :, 0])[:, :, None] if flat else network(image)
        total[:, *box] += logits[0].double().numpy() * weight
        norm[box] += weight
    found: np.ndarray = total / norm
    return found


def assert_cut(masks: np.ndarray, logits: np.ndarray) -> None:
    """Equal, but where a logit lies at its threshold."""
    distance = logits - np.array(CUT)[:, None, None, None]
    clear = np.abs(distance) > 1e-3
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(masks[clear], (distance > 0)[clear])


@pytest.mark.parametrize(("dims", "size"), [(2, 24), (2, 32), (3, 12)])
def test_dice_is_that_of_the_evaluator(
    exports: dict[int, Path], asked: Callable[..., PredictSettings], tmp_path: Path, dims: int, size: int
) -> None:
    """Crops up to the size of a patch: every slice, or all six in one, as validation patches, counted as there."""
    write_small(tmp_path / "data", size=size, margin=16)
    patch = np.array(PATCH[dims])
    settings = DataSettings(
        name="cellmap",
        root=str(tmp_path / "data"),
        cache_dir=str(tmp_path / "cache"),
        classes=list(CLASSES),
        patch=PATCH[dims],
    )
    dataset = open_packed(settings)
    [member] = [i for i, crop in enumerate(dataset.crops) if crop.name == "cells/crop2"]
    first = -((patch - [6, size, size]) // 2)
    starts = np.array([[z, *first[1:]] for z in range(6)] if dims == 2 else [first])
    batch = cut(dataset, np.full(len(starts), member), starts, patch, {})
    with torch.no_grad():
        found = NETWORKS[2](batch.em[:, :, 0])[:, :, None] if dims == 2 else NETWORKS[3](batch.em)
    logits = found - torch.tensor(CUT).view(1, -1, 1, 1, 1)
    counts = metrics.accumulate(logits, expand_labels(batch.labels, 2), torch.zeros(len(starts), dtype=torch.int64), 1)
    wanted = metrics.dice(counts.tp[0], counts.fp[0], counts.fn[0]).tolist()
    done = predict(asked(crop="cells/crop2", checkpoint=str(exports[dims])))
    assert list(done.dice) == list(CLASSES)
    assert list(done.dice.values()) == pytest.approx(wanted, abs=2e-3)
    assert done.shape == (6, size, size)


def test_on_the_phantom_dice_is_that_of_the_evaluator_but_for_borders(tmp_path: Path, shared_cache: Path) -> None:
    """A crop that fits into a patch: equal. A larger one: near what patches at the same windows count one by one, where
    a patch sees nothing beyond itself and voxels in two of them count twice."""
    patch = [1, 64, 64]
    best = exported(tmp_path / "best", NETWORKS[2], patch, data="phantom")
    settings = DataSettings(name="phantom", cache_dir=str(shared_cache), classes=list(CLASSES), patch=patch)
    dataset = open_packed(settings)
    cuts = torch.tensor(CUT).view(1, -1, 1, 1, 1)
    bounds = {"phantom_a/crop1": 1e-4, "phantom_c/crop29": 0.05}
    for member, crop in enumerate(dataset.crops):
        if crop.name not in bounds:
            continue
        depth, *plane = crop.labels.shape[1:]
        rows, columns = (sorted({*range(0, n - 64, 32), n - 64}) for n in plane)
        starts = np.array(list(itertools.product(range(depth), rows, columns)))
        batch = cut(dataset, np.full(len(starts), member), starts, np.array(patch), {})
        with torch.no_grad():
            logits = NETWORKS[2](batch.em[:, :, 0])[:, :, None] - cuts
        alone = torch.zeros(len(starts), dtype=torch.int64)
        counts = metrics.accumulate(logits, expand_labels(batch.labels, 2), alone, 1)
        wanted = metrics.dice(counts.tp[0], counts.fp[0], counts.fn[0]).tolist()
        place = DataFolder(cache_dir=str(shared_cache))
        out = str(tmp_path / crop.name.replace("/", "_"))
        done = predict(PredictSettings(checkpoint=str(best), crop=crop.name, out=out, data=place))
        found = [done.dice.get(name, math.nan) for name in CLASSES]
        assert found == pytest.approx(wanted, abs=bounds.pop(crop.name), nan_ok=True)
    assert not bounds


@pytest.mark.parametrize(
    ("dims", "overlap", "shape", "block", "num_blocks"),
    [
        (2, 0.5, (3, 150, 101), (2, 48, 40), 2 * 4 * 3),
        (2, 0.3, (3, 150, 101), (2, 48, 40), 2 * 4 * 3),
        (2, 0.0, (3, 150, 101), (2, 48, 40), 2 * 4 * 3),
        (3, 0.5, (19, 30, 29), (8, 20, 15), 3 * 2 * 2),
        (3, 0.3, (19, 20, 12), (5, 20, 12), 4),
        (3, 0.0, (19, 20, 29), (9, 20, 20), 3 * 2),
    ],
)
def test_blocks_give_what_the_whole_gives(
    exports: dict[int, Path],
    asked: Callable[..., PredictSettings],
    tmp_path: Path,
    dims: int,
    overlap: float,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    num_blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no block reads more than itself and the windows that touch it: memory does not grow with the volume."""
    em, window = noise(shape), PATCH[dims]
    write_em(tmp_path / "data", "cells", em, chunk=32)
    volume = tmp_path / "data" / "cells" / "cells.zarr" / "recon-1" / "em" / "fibsem-uint8"
    monkeypatch.setattr(blocks, "block_shape", lambda *_: block)
    read: list[tuple[int, ...]] = []
    original = volume_module.read_grey

    def watched(*given: Any) -> Any:
        found = original(*given)
        read.append(found[0].shape)
        return found

    monkeypatch.setattr(volume_module, "read_grey", watched)
    done = predict(asked(volume=str(volume), overlap=overlap, checkpoint=str(exports[dims]), batch_size=3))
    assert done.dice == {}
    assert len(read) == num_blocks
    assert (np.max(read, axis=0) <= np.array(block) + 2 * np.array(window)).all()
    assert_cut(written(done.out), blended(NETWORKS[dims], em, window, overlap))


@pytest.mark.parametrize("shape", [(1, 20, 20), (5, 9, 7), (11, 14, 20), (8, 20, 10)])
def test_a_volume_smaller_than_the_patch_lies_in_the_middle_of_it(
    exports: dict[int, Path], asked: Callable[..., PredictSettings], tmp_path: Path, shape: tuple[int, ...]
) -> None:
    em, window = noise(shape), PATCH[3]
    write_em(tmp_path / "data", "cells", em)
    volume = tmp_path / "data" / "cells" / "cells.zarr" / "recon-1" / "em" / "fibsem-uint8"
    done = predict(asked(volume=str(volume), checkpoint=str(exports[3])))
    before = [max(0, w - n) // 2 for w, n in zip(window, shape)]
    whole = np.zeros(np.maximum(shape, window), np.uint8)
    inside = tuple(slice(b, b + n) for b, n in zip(before, shape))
    whole[inside] = em
    assert done.shape == shape
    assert_cut(written(done.out), blended(NETWORKS[3], whole, window, 0.5)[:, *inside])


@pytest.mark.parametrize(("name", "larger"), [("vit_2d_small", (2, 70, 91)), ("vit_3d_small", (19, 40, 33))])
def test_networks_of_one_size_predict_volumes_of_any(
    asked: Callable[..., PredictSettings], tmp_path: Path, name: str, larger: tuple[int, ...]
) -> None:
    """Which are no multiples of it, and which are smaller."""
    sections = network_preset(name)
    torch.manual_seed(0)
    data = sections["data"] | {"classes": list(CLASSES)}
    settings = trial_settings({"model": sections["model"], "data": data})
    patch = settings.data.patch
    drawn = build(settings.model, in_channels=1, num_classes=len(CLASSES), patch=patch)
    network = inference(settings, drawn.state_dict(), [0.0] * len(CLASSES))
    assert network.fixed_size is not None
    export = exported(tmp_path / "fixed", network, patch)
    for shape in (larger, (2, 20, 23)):
        em = noise(shape)
        np.save(tmp_path / "em.npy", em)
        volume = {"volume": str(tmp_path / "em.npy"), "voxel_nm": [8.0] * 3, "overwrite": True}
        out = tmp_path / f"{shape[0]}.zarr"
        done = predict(asked(checkpoint=str(export), out=str(out), overlap=0.25, **volume))
        before = [max(0, w - n) // 2 for w, n in zip(patch, shape)]
        inside = tuple(slice(b, b + n) for b, n in zip(before, shape))
        whole = np.zeros(np.maximum(shape, patch), np.uint8)
        whole[inside] = em
        assert_cut(written(done.out), blended(network, whole, patch, 0.25)[:, *inside])


def test_a_block_of_3d_windows_is_as_wide_as_memory_allows() -> None:
    for window, num_classes in (((64, 64, 64), 5), ((128, 128, 128), 14), ((16, 256, 256), 48), ((8, 8, 8), 1)):
        depth, height, width = block_shape(window, 0.5, num_classes)
        across = height // window[1]
        assert (depth, height, width) == (4 * window[0], across * window[1], across * window[2])
        plane = num_classes * math.prod(window)
        assert across == 1 or plane * (across + 1) ** 2 <= MOST_LOGITS, "with half a window on each side"
        assert plane * (across + 2) ** 2 > MOST_LOGITS


def test_a_program_of_an_earlier_version_is_given_two_strides(exports: dict[int, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exports[2], tmp_path / "1")
    about = json.loads((folder / "model.json").read_text()) | {"patch": [1, 2, 8]}
    for drop, window in ((None, (1, 2, 8)), ("least_side", (1, 4, 8))):
        about.pop(drop, None)
        (folder / "model.json").write_text(json.dumps(about))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["sha256"]["model.json"] = hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert read_model(folder, torch.device("cpu")).window == window


def test_a_span_holds_every_window_that_touches_the_block() -> None:
    for length, window, overlap in ((100, 32, 0.5), (101, 32, 0.3), (64, 64, 0.5), (65, 64, 0.0), (200, 48, 0.75)):
        between = step(window, overlap)
        starts = sorted({*range(0, length - window, between), length - window})
        for start in range(0, length, 7):
            for stop in (start + 1, min(start + 30, length), length):
                low, high = span(start, stop, length, window, overlap)
                touching = [s for s in starts if s < stop and s + window > start]
                inside = sorted({*range(low, high - window, between), high - window})
                assert set(touching) <= set(inside), (length, window, overlap, start, stop)
                assert set(inside) <= set(starts)


def test_the_labels_are_ome_zarr_and_lie_on_the_em(asked: Callable[..., PredictSettings], tmp_path: Path) -> None:
    """EM of 4 nm, a crop somewhere in it, a network of 8 nm."""
    write_em(tmp_path / "data", "cells", noise((8, 80, 90)), (4, 4, 4), origin=(100, 40, 60))
    write_label(tmp_path / "data", "cells", "crop1", "nuc", noise((4, 40, 44)) % 2, (4, 4, 4), origin=(108, 80, 100))
    done = predict(asked(crop="crop1"))
    assert list(done.dice) == ["nuc"], "pm is not annotated"
    for name in CLASSES:
        group = done.out / "labels" / name
        ImageLabel.from_zarr(zarr.open_group(group, mode="r"))
        [level] = read_levels(group)
        assert (level.scale, level.corner.tolist(), level.shape) == ((8, 8, 8), [108, 80, 100], (2, 20, 22))
        attributes = json.loads((group / ".zattrs").read_text())
        em = group / attributes["image-label"]["source"]["image"]
        assert em.resolve().name == "fibsem-uint8"
        assert (em / ".zattrs").is_file()
    assert json.loads((done.out / "labels" / ".zattrs").read_text()) == {"labels": list(CLASSES)}
    about = json.loads((done.out / ".zattrs").read_text())["tune_app"]
    assert about["dice"] == {"nuc": pytest.approx(done.dice["nuc"])}
    whole = predict(asked(volume=str(em.resolve()), out=str(tmp_path / "whole.zarr")))
    [level] = read_levels(whole.out / "labels" / "nuc")
    assert (level.corner.tolist(), level.shape) == ([100, 40, 60], (4, 40, 45))


def test_an_earlier_prediction_is_replaced_when_asked_and_nothing_else_ever(
    exports: dict[int, Path], asked: Callable[..., PredictSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small(tmp_path / "data")
    out = predict(asked(crop="crop1")).out
    with pytest.raises(InputError, match=r"exists, the prediction of cells/crop1 with checkpoint=.*overwrite=true"):
        predict(asked(crop="crop1"))
    predict(asked(crop="crop1", overwrite=True))
    before = written(out)
    with pytest.raises(InputError, match=r"prediction of cells/crop1 .* this would be the prediction of cells/crop2"):
        predict(asked(crop="crop2", overwrite=True))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(blocks, "predict_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(asked(crop="crop1", overwrite=True))
    np.testing.assert_array_equal(written(out), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pred.zarr.partial", "data", "pred.zarr"]
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InputError, match="no prediction"):
        predict(asked(crop="crop1", out=str(tmp_path / "thesis"), overwrite=True))


KILLED = """
import itertools, os, signal, sys
import zarr
from tune_app.exporting import blocks
from tune_app.exporting import volume as volume_module
from tune_app.predict import main

blocks.block_shape = lambda *_: (2, 40, 24)
numbers, write = itertools.count(1), zarr.Array.__setitem__

def dies(array, place, values):
    write(array, place, values)
    if next(numbers) == int(os.environ["DIES_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)

zarr.Array.__setitem__ = dies
main()
"""
"""`predict` in blocks of which one and a half chunks lie beside each other, killed in the middle of a block."""


def test_a_killed_run_goes_on_where_it_stopped(
    exports: dict[int, Path],
    asked: Callable[..., PredictSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same bits in every file, and the same Dice, as of a run that nobody stopped."""
    write_em(tmp_path / "data", "cells", noise((6, 90, 70)), chunk=32)
    write_label(tmp_path / "data", "cells", "crop1", "nuc", noise((6, 90, 70)) % 2, chunk=32)
    words = [
        f"checkpoint={exports[2]}",
        f"data.root={tmp_path / 'data'}",
        "crop=crop1",
        f"out={tmp_path / 'pred.zarr'}",
    ]
    environment = {**os.environ, "DIES_AFTER": "9"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "pred.zarr").exists()
    partial = tmp_path / ".pred.zarr.partial"
    assert len((partial / "blocks.jsonl").read_text().splitlines()) == 4
    with (partial / "blocks.jsonl").open("a") as record:
        record.write("[4, [[1")  # of a kill in the middle of a line
    (partial / "labels" / "nuc" / "s0" / "0.abc.partial").write_bytes(b"a chunk cut short")

    monkeypatch.setattr(blocks, "block_shape", lambda *_: (2, 40, 24))
    predicted: list[Any] = []
    original = blocks.predict_block
    monkeypatch.setattr(blocks, "predict_block", lambda *given: predicted.append(given[2]) or original(*given))
    with pytest.raises(InputError, match=r"holds another prediction, unfinished \(overlap: 0.5 there, 0.25 here\)"):
        predict(asked(crop="crop1", overlap=0.25))
    with pytest.raises(InputError, match=r"checkpoint: .*/2, model \w{8} there, .*/3, \w{8} here; .*window"):
        predict(asked(crop="crop1", checkpoint=str(exports[3])))
    ended = predict_and_print(asked(crop="crop1", batch_size=3))
    assert checked_end("predict", ended)["kind"] == "volume"
    assert "going on after 4 of 27 blocks" in capsys.readouterr().err
    assert len(predicted) == 27 - 4
    assert not partial.exists()

    whole = predict(asked(crop="crop1", out=str(tmp_path / "whole.zarr")))
    for name in ("pred.zarr", "whole.zarr"):
        found = {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        about = json.loads(found.pop(Path(".zattrs")))["tune_app"]
        del about["made"]
        if name == "pred.zarr":
            first = found, about
    assert (found, about) == first
    assert about["dice"] == whole.dice
    assert {path.name for path in whole.out.iterdir()} == {".zattrs", ".zgroup", "labels"}


def test_another_unfinished_prediction_is_dropped_when_asked(
    asked: Callable[..., PredictSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that another process writes is left alone."""
    write_small(tmp_path / "data")
    whole = predict(asked(crop="crop2", out=str(tmp_path / "other.zarr")))
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "predict_block", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(asked(crop="crop1"))
    with (
        FileLock(tmp_path / ".pred.zarr.partial" / "unfinished.lock"),
        pytest.raises(InputError, match="another process"),
    ):
        predict(asked(crop="crop1"))
    with pytest.raises(InputError, match=r"crop: cells/crop1 there, cells/crop2 here"):
        predict(asked(crop="crop2"))
    done = predict(asked(crop="crop2", overwrite=True))
    np.testing.assert_array_equal(written(done.out), written(whole.out))


def test_a_prediction_may_lie_beside_the_em_and_changes_nothing_there(
    asked: Callable[..., PredictSettings], tmp_path: Path
) -> None:
    write_small(tmp_path / "data")
    recon = tmp_path / "data" / "cells" / "cells.zarr" / "recon-1"
    before = {path: path.read_bytes() for path in recon.rglob("*") if path.is_file()}
    out = recon / "labels" / "inference" / "best-1"
    predict(asked(crop="crop1", out=str(out)))
    group = out / "labels" / "nuc"
    ImageLabel.from_zarr(zarr.open_group(group, mode="r"))
    attributes = json.loads((group / ".zattrs").read_text())
    assert (group / attributes["image-label"]["source"]["image"]).resolve() == recon / "em" / "fibsem-uint8"
    assert {path: path.read_bytes() for path in before} == before
    assert len(discover_crops(tmp_path / "data")) == 4
    for place, message in (
        ("labels/groundtruth/mine", r"among the ground truth.*out=.*labels/inference/mine"),
        ("em/fibsem-uint8/mine", "never written to"),
        ("em/fibsem-uint8/s0/mine", "never written to"),
    ):
        with pytest.raises(InputError, match=message):
            predict(asked(crop="crop1", out=str(recon / place)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crop": "crop9"}, "crop=crop9: there is no such crop. Choices: cells/crop"),
        ({"crop": "crop1", "checkpoint": "nowhere"}, "checkpoint=nowhere: is not the folder of an export"),
        ({"crop": "crop1", "checkpoint": "best"}, "holds 2 exports: give checkpoint=best/1"),
        ({}, "one of the two"),
        ({"crop": "crop1", "volume": "x"}, "one of the two"),
        ({"crop": "crop1", "overlap": 1.0}, "overlap=1.0"),
        (
            {"volume": "nowhere"},
            "volume=nowhere: no such folder; the folder of an OME-Zarr multiscale is needed, or a .npy",
        ),
        ({"volume": "data/cells/cells.zarr"}, "has no .zattrs; the folder of an"),
        ({"volume": "nowhere.tif"}, "volume=nowhere.tif: no such file"),
        ({"data": "crop1"}, "data: is a section and takes no value; data.root, data.cache_dir are in it. Say what to"),
        ({"crop": "crop1", "voxel_nm": "[4,4,4]"}, "voxel_nm=[4.0, 4.0, 4.0]: goes with volume="),
        ({"volume": "x.npy", "voxel_nm": "[4,4]"}, "voxel_nm=[4.0, 4.0]: three sizes in nm are needed"),
        ({"volume": "x.npy", "intensity": "[4,4]"}, "intensity=[4.0, 4.0]: a black and a white value"),
        ({"volume": "data/cells/cells.zarr"}, "data/cells/cells.zarr/recon-1/em/fibsem-uint8\n"),
    ],
)
def test_bad_input_is_a_sentence(
    asked: Callable[..., PredictSettings],
    tmp_path: Path,
    given: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
) -> None:
    write_small(tmp_path / "data", crops=2)
    for rank in ("1", "2"):
        shutil.copytree(checkpoint, tmp_path / "best" / rank)
    monkeypatch.chdir(tmp_path)
    words = {"checkpoint": str(checkpoint), "data.root": str(tmp_path / "data")} | given
    monkeypatch.setattr("sys.argv", ["predict", *(f"{key}={value}" for key, value in words.items())])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Download" not in told
    assert not (tmp_path / "pred.zarr").exists()


def test_a_program_that_was_changed_is_not_run(
    asked: Callable[..., PredictSettings], checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "model.pt2").write_bytes(b"something else")
    with pytest.raises(InputError, match="damaged or was changed"):
        predict(asked(crop="crop1", checkpoint=str(copy)))
    (copy / "model.pt2").unlink()
    with pytest.raises(InputError, match=r"holds no model\.pt2"):
        predict(asked(crop="crop1", checkpoint=str(copy)))


def test_what_is_printed(
    asked: Callable[..., PredictSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small(tmp_path / "data")
    assert predict_and_print(asked(crop="crop1")).code == 0
    shown = capsys.readouterr()
    assert f"{tmp_path}/pred.zarr   6 × 24 × 24 voxels" in shown.out
    assert "Dice nuc" in shown.out
    assert "predicting" in shown.err


def test_where_there_is_no_em_nothing_is_predicted(asked: Callable[..., PredictSettings], tmp_path: Path) -> None:
    """Beyond the volume, in a block that lies there as a whole, and in a chunk that was never downloaded."""
    write_em(tmp_path / "data", "cells", noise((2, 40, 40)))
    write_label(tmp_path / "data", "cells", "crop1", "nuc", noise((20, 40, 40)) % 2)
    write_label(tmp_path / "data", "cells", "crop2", "nuc", noise((2, 8, 8)) % 2, origin=(0, 4000, 0))
    (tmp_path / "data" / "cells" / "cells.zarr" / "recon-1" / "em" / "fibsem-uint8" / "s0" / "0" / "1" / "2").unlink()
    masks = written(predict(asked(crop="crop1")).out)
    assert masks.shape == (2, 20, 40, 40)
    assert masks[:, :2].any()
    assert not masks[:, 2:].any()
    assert masks[0, 0, 8:16, 8:16].any()
    assert not masks[:, :2, 8:16, 16:24].any()
    with pytest.raises(InputError, match="lies outside the EM"):
        predict(asked(crop="crop2", out=str(tmp_path / "other.zarr")))


def test_a_stack_in_one_file_is_predicted_as_the_same_voxels_in_zarr(
    exports: dict[int, Path], asked: Callable[..., PredictSettings], tmp_path: Path
) -> None:
    """NumPy, TIFF, OME-Zarr with five axes, and OME-Zarr 0.5: whatever they lie in."""
    em = noise((5, 40, 50))
    write_em(tmp_path / "data", "cells", em)
    volume = tmp_path / "data" / "cells" / "cells.zarr" / "recon-1" / "em" / "fibsem-uint8"
    wanted = written(predict(asked(volume=str(volume))).out)
    np.save(tmp_path / "em.npy", em)
    tifffile.imwrite(tmp_path / "em.tif", em, compression="zlib")
    write_plain_zarr(tmp_path / "five", em[None, None], "tczyx")
    write_plain_zarr(tmp_path / "v3", em, "zyx", zarr_format=3)
    write_plain_zarr(tmp_path / "v3five", em[None, None], "tczyx", zarr_format=3)
    for name in ("em.npy", "em.tif", "five", "v3", "v3five"):
        own = [8.0, 8.0, 8.0] if name.startswith("em.") else []
        done = predict(asked(volume=str(tmp_path / name), voxel_nm=own, out=str(tmp_path / f"{name}.pred")))
        np.testing.assert_array_equal(written(done.out), wanted)
        source = json.loads((done.out / "labels" / "nuc" / ".zattrs").read_text())["image-label"]["source"]["image"]
        assert (done.out / "labels" / "nuc" / source).resolve() == tmp_path / name


def write_plain_zarr(group: Path, values: np.ndarray, axes: str, zarr_format: int = 2, **more: Any) -> None:
    """An OME-Zarr image as other programs write it: voxels of 8 nm, in micrometres; 0.4 or 0.5."""
    store = zarr.create_group(group, zarr_format=zarr_format)
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    leading = [{"name": axis, "type": {"t": "time", "c": "channel"}[axis]} for axis in axes[:-3]]
    scale = {"type": "scale", "scale": [*(1.0 for _ in leading), 0.008, 0.008, 0.008]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    image = {"multiscales": [{"axes": leading + space, "datasets": datasets}], **more}
    image |= {"version": "0.5"} if zarr_format == 3 else {}
    image["multiscales"][0] |= {"version": "0.4"} if zarr_format == 2 else {}
    store.attrs.update({"ome": image} if zarr_format == 3 else image)
    chunks = (*(1 for _ in leading), 2, 16, 16)
    array = store.create_array("0", shape=values.shape, chunks=chunks, dtype=values.dtype)
    array[...] = values


def test_values_are_taken_between_black_and_white(asked: Callable[..., PredictSettings], tmp_path: Path) -> None:
    """Of 16 bit or floats; without them it is refused, with an example that fits."""
    em = noise((2, 40, 50))
    np.save(tmp_path / "em8.npy", em)
    np.save(tmp_path / "em16.npy", 100 + 7 * em.astype(np.uint16))
    np.save(tmp_path / "em32.npy", np.where(em == 0, np.nan, em / 510 - 1).astype(np.float32))
    wanted = written(predict(asked(volume=str(tmp_path / "em8.npy"), voxel_nm=[8, 8, 8])).out)
    for name, intensity in (("em16", [100, 100 + 7 * 255]), ("em32", [-1, -0.5])):
        settings = asked(
            volume=str(tmp_path / f"{name}.npy"), voxel_nm=[8, 8, 8], out=str(tmp_path / name), intensity=intensity
        )
        np.testing.assert_array_equal(written(predict(settings).out), wanted)
    with pytest.raises(InputError, match=r"its values are uint16.*intensity=\[1\d\d(\.\d+)?,18\d\d(\.\d+)?\]"):
        predict(asked(volume=str(tmp_path / "em16.npy"), voxel_nm=[8, 8, 8], out=str(tmp_path / "other")))


def test_voxels_of_another_size_are_resampled_and_that_is_said(
    asked: Callable[..., PredictSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    em = noise((3, 40, 40))
    fine = em.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.save(tmp_path / "em8.npy", em)
    np.save(tmp_path / "em4.npy", fine)
    wanted = predict(asked(volume=str(tmp_path / "em8.npy"), voxel_nm=[8, 8, 8]))
    assert "note" not in capsys.readouterr().err
    out = str(tmp_path / "fine.zarr")
    assert predict_and_print(asked(volume=str(tmp_path / "em4.npy"), voxel_nm=[4, 4, 4], out=out)).code == 0
    told = capsys.readouterr()
    assert "note: em4.npy: voxels of 4 × 4 × 4 nm; predicted at 8 × 8 × 8 nm as trained, resampled" in told.err
    assert "3 × 40 × 40 voxels" in told.out
    np.testing.assert_array_equal(written(Path(out)), written(wanted.out))
    [level] = read_levels(Path(out) / "labels" / "nuc")
    assert (level.scale, level.corner.tolist()) == ((8, 8, 8), [0, 0, 0])
    write_plain_zarr(tmp_path / "image", fine, "zyx")
    predict_and_print(asked(volume=str(tmp_path / "image"), voxel_nm=[4, 4, 4], out=str(tmp_path / "image.pred")))
    assert "4 × 4 × 4 nm; predicted at 8 × 8 × 8 nm as trained, resampled from its level 0" in capsys.readouterr().err
    np.testing.assert_array_equal(written(tmp_path / "image.pred"), written(wanted.out))


def test_labels_are_no_volume(asked: Callable[..., PredictSettings], tmp_path: Path) -> None:
    write_small(tmp_path / "data")
    truth = tmp_path / "data" / "cells" / "cells.zarr" / "recon-1" / "labels" / "groundtruth" / "crop1" / "nuc"
    ours = predict(asked(crop="crop1", out=str(tmp_path / "mine.zarr"))).out / "labels" / "nuc"
    write_plain_zarr(tmp_path / "v3", noise((2, 9, 9)), "zyx", 3, **{"image-label": {}})
    for folder in (truth, ours, tmp_path / "v3"):
        with pytest.raises(InputError, match="these are labels"):
            predict(asked(volume=str(folder)))
    write_plain_zarr(tmp_path / "instances", noise((2, 9, 9)).astype(np.uint32), "zyx")
    with pytest.raises(InputError, match=r"its values are uint32.* If it holds labels, give the image"):
        predict(asked(volume=str(tmp_path / "instances")))
