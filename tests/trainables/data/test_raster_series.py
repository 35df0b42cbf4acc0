"""Series of rasters: a slice is a window in time, its labels are the next mask; generated fires; what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tiny_trial import trial_config

from trainables.data import open_packed
from trainables.data.check import check
from trainables.data.expand import class_masks
from trainables.data.phantom import fire
from trainables.data.phantom.generate import is_phantom
from trainables.data.sources import open_source
from trainables.engine import Engine
from trainables.errors import DataError, SettingsError
from trainables.prediction import PredictionPictures
from trainables.settings import DataSettings, trial_settings

STEPS = 3
ABOUT = {
    "channels": ["height", "fire", "wind"],
    "range": {"height": [-100, 100], "fire": [0, 255], "wind": [0, 1]},
    "fire": ["fire"],
    "wind": ["wind"],
    "static": ["height"],
}
OFF = {"mirror": False, "transpose": False, "rotate_degrees": 0.0}


def write_series(root: Path, name: str, *, frames: int = 7, seed: int = 0, kind: str = "npy") -> tuple[Any, Any]:
    """One series of 9 × 8 cells; its frames float32 (T, 3, 9, 8) and mask uint8 (T, 9, 8)."""
    rng = np.random.default_rng(seed)
    stack = np.stack(
        [rng.uniform(-100, 100, (frames, 9, 8)), rng.integers(0, 256, (frames, 9, 8)), rng.random((frames, 9, 8))], 1
    )
    mask = rng.choice(np.array([0, 1, 255], np.uint8), (frames, 9, 8))
    folder = root / name
    folder.mkdir(parents=True)
    (root / "channels.json").write_text(json.dumps(ABOUT))
    for part, array in (("frames", stack.astype(np.float32)), ("mask", mask)):
        save(folder / part, array, kind)
    return stack.astype(np.float32), mask


def save(path: Path, array: Any, kind: str = "npy") -> None:
    if kind == "npy":
        np.save(path.with_suffix(".npy"), array)
    else:
        shape = (2, *array.shape[1:])
        zarr.create_array(path.with_suffix(".zarr"), data=array, chunks=shape, zarr_format=int(kind[-1]))


def settings(root: Path | str, cache: Path, *, steps: int = STEPS, options: Any = None, **more: Any) -> DataSettings:
    given = {"classes": ["fire"], "patch": [1, 8, 8], "cache_dir": str(cache)} | OFF | more
    return DataSettings(name="raster_series", root=str(root), options={"steps": steps} | (options or {}), **given)


def errors(found: DataSettings) -> str:
    return "\n".join(str(finding) for finding in check(found) if finding.level == "error")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four series a, b, c, d of 7 frames."""
    for seed, name in enumerate("abcd"):
        write_series(tmp_path / "data", name, seed=seed)
    return tmp_path / "data"


def test_a_slice_is_a_window_and_its_labels_are_the_next_mask(tmp_path: Path) -> None:
    stack, mask = write_series(tmp_path / "data", "a")
    write_series(tmp_path / "data", "b", seed=1, frames=5)
    dataset = open_packed(settings(tmp_path / "data", tmp_path, options={"validate": "b"}))
    a, b = dataset.crops
    assert (a.shape, b.shape, dataset.in_channels) == ((4, 9, 8), (2, 9, 8), 9)
    low, high = np.array([ABOUT["range"][name] for name in ABOUT["channels"]], np.float64).T[:, None, :, None, None]
    grey = np.rint((stack - low) / (high - low) * 255)
    present, known = class_masks(a.labels, 0, 1)
    for d in range(4):
        for t in range(STEPS):
            for c in range(3):
                np.testing.assert_array_equal(a.em[t * 3 + c, d], grey[d + t, c])
        np.testing.assert_array_equal(present[d], mask[d + STEPS] == 1)
        np.testing.assert_array_equal(known[d], mask[d + STEPS] != 255)


def test_numpy_and_either_zarr_are_the_same_data(tmp_path: Path) -> None:
    prints = set()
    for kind in ("npy", "zarr2", "zarr3"):
        for seed, name in enumerate("ab"):
            write_series(tmp_path / kind, name, seed=seed, kind=kind)
        prints.add(open_packed(settings(tmp_path / kind, tmp_path, options={"validate": "b"})).fingerprint)
    assert len(prints) == 1


def test_what_lies_outside_its_range_is_clipped_and_said(root: Path, tmp_path: Path) -> None:
    frames = np.load(root / "a/frames.npy")
    frames[0, 0, 0, 0], frames[1, 0, :2, 0] = -300, 150
    np.save(root / "a/frames.npy", frames)
    about = settings(root, tmp_path, options={"validate": "d"})
    (told,) = [str(finding) for finding in check(about) if finding.level == "warning"]
    assert told == "warning: a: height is -300 to 150: 0.595 % outside [-100, 100], clipped"  # 3 of 504
    em = open_packed(about).crops[0].em
    assert (em[0, 0, 0, 0], em[0, 1, 0, 0], em[3, 0, 1, 0]) == (0, 255, 255)


def test_series_change_side_whole_by_pattern_file_or_seed(root: Path, tmp_path: Path) -> None:
    def validating(**more: Any) -> set[str]:
        return {item.name for item in open_source(settings(root, tmp_path, **more)).items() if item.side == "validate"}

    assert validating(options={"validate": "[bc]"}) == {"b", "c"}
    drawn = {frozenset(validating(split_seed=seed)) for seed in range(20)}
    assert {len(names) for names in drawn} == {1}
    assert len(drawn) > 1
    assert len(validating(validation_fraction=0.99)) == 3
    (root / "split.csv").write_text("side,series\ntrain,a\nvalidate,b\ntest,c\n")
    assert validating() == {"b"}
    assert validating(options={"validate": "a"}) == {"a"}
    assert [item.side for item in open_source(settings(root, tmp_path)).items()] == ["train", "validate", "test"]
    (remark,) = open_packed(settings(root, tmp_path)).remarks
    assert "1 series have no side in the split and are left out: d" in remark


def test_a_drawn_split_has_positives_on_either_side_where_it_can(root: Path, tmp_path: Path) -> None:
    for name in "abd":
        np.save(root / name / "mask.npy", np.zeros((7, 9, 8), np.uint8))
    early = np.zeros((7, 9, 8), np.uint8)
    early[:STEPS] = 1  # of frames that are never a target
    np.save(root / "d/mask.npy", early)
    found = check(settings(root, tmp_path))
    assert sum("holds this class" in str(f) for f in found if f.level == "warning") == 1
    np.save(root / "a/mask.npy", np.load(root / "c/mask.npy"))
    for seed in range(8):
        assert not [f for f in check(settings(root, tmp_path, split_seed=seed)) if f.level == "warning"]


def test_a_direction_that_would_not_turn_with_its_image_is_said(root: Path, tmp_path: Path) -> None:
    turned = settings(root, tmp_path, mirror=True, rotate_degrees=90.0)
    (told,) = open_packed(turned).remarks
    assert told.startswith("wind: a direction does not turn with an image")
    assert told.endswith("write data.mirror=false data.rotate_degrees=0")
    assert f"warning: {root}: {told}" in map(str, check(turned))
    assert open_packed(settings(root, tmp_path)).remarks == []


def test_all_that_is_wrong_is_said_at_once_with_its_file(root: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("efgh", 4):
        write_series(root, name, seed=seed)
    frames, mask = np.load(root / "a/frames.npy"), np.load(root / "a/mask.npy")
    frames[2, 2, :3, 0], frames[3, 1, 0, 0] = np.nan, np.inf
    np.save(root / "a/frames.npy", frames)
    wrong = mask.copy()
    wrong[4:6, 0, 0], wrong[0, 1, 1] = 2, 7
    np.save(root / "a/mask.npy", wrong)
    np.save(root / "b/mask.npy", mask[:, :5])
    np.save(root / "c/frames.npy", frames[:, :2])
    np.save(root / "d/frames.npy", frames[:3])
    np.save(root / "d/mask.npy", mask[:3])
    (root / "e/mask.npy").unlink()
    (root / "f/frames.npy").write_bytes((root / "f/frames.npy").read_bytes()[:300])
    np.save(root / "g/mask.npy", np.full((7, 9, 8), "fire"))
    (root / "split.csv").write_text("train,a\nvalidate,h\nvalidate,nobody\nupside,b\ntrain,a\n")
    told = errors(settings(root, tmp_path))
    for expected in (
        f"{root}/a/frames.npy: 3 of 504 values of wind are NaN or infinite",
        f"{root}/a/frames.npy: 1 of 504 values of fire are NaN or infinite",
        f"{root}/a/mask.npy: holds 2 (2 times), 7 (1 times); allowed are 0, 1 and 255",
        f"{root}/b/mask.npy: shape (7, 5, 8); (7, 9, 8) is needed",
        f"{root}/c/frames.npy: shape (7, 2, 9, 8); (T, 3, H, W) is needed, as channels.json names 3 channels",
        f"{root}/d/frames.npy: 3 frames; data.options.steps=3 needs at least 4",
        f"{root}/e: mask.npy or mask.zarr is needed, and neither is there",
        f"{root}/f/frames.npy cannot be read",
        f"{root}/g/mask.npy: values of type <U4; numbers are needed",
        "split.csv:3: nobody is no series; there are a, b, c, d, e, f, g, h",
        "split.csv:4: upside,b; needed is SIDE,SERIES with train, validate, test",
        "split.csv:5: a appears again",
    ):
        assert expected in told, expected
    with pytest.raises(DataError, match=r"b/mask\.npy: shape"):
        open_packed(settings(root, tmp_path))


ABOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "range of another": (
        {"range": ABOUT["range"] | {"fuel": [0, 1]}},
        "range names fuel; channels are height, fire, wind",
    ),
    "role of another": ({"wind": ["wind", "wind_y"]}, "wind names wind_y; channels are"),
    "no range": ({"range": {"fire": [0, 1], "wind": [0, 1]}}, "range of height is None; two numbers are needed"),
    "range upside down": ({"range": ABOUT["range"] | {"fire": [1, 0]}}, "range of fire is [1, 0]; the first value"),
    "no role": ({"static": []}, "height is in none of fire, wind, static; it must be in one of them"),
    "no fire": ({"fire": [], "static": ["fire", "height"]}, "fire names no channel"),
    "twice": ({"channels": ["fire", "fire", "wind"]}, "a list of different names is needed"),
    "no ranges": ({"range": ["height"]}, "is no JSON object with `channels` and `range`"),
    "endless range": ({"range": ABOUT["range"] | {"fire": [0, math.inf]}}, "range of fire is [0, inf]; two numbers"),
    "a word": ({"channels": "fire"}, "a list of different names is needed"),
    "no channels": ({"channels": None}, "a list of different names is needed"),
}


@pytest.mark.parametrize(("more", "expected"), ABOUTS.values(), ids=ABOUTS)
def test_channels_that_cannot_be_are_refused(root: Path, tmp_path: Path, more: Any, expected: str) -> None:
    (root / "channels.json").write_text(json.dumps(ABOUT | more))
    told = errors(settings(root, tmp_path))
    assert f"{root}/channels.json" in told
    assert expected in told


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    assert errors(settings(root, tmp_path)) == ""
    assert "of 4 series 4 train, 0 validate; at least one is needed" in errors(
        settings(root, tmp_path, options={"validate": "x*"})
    )
    (root / "channels.json").write_text("[")
    assert "channels.json is no JSON object" in errors(settings(root, tmp_path))
    (root / "channels.json").unlink()
    assert 'channels.json is missing: it names the channels of the stacks. Write {"channels"' in errors(
        settings(root, tmp_path)
    )
    assert "nowhere: no such folder" in errors(settings(root / "nowhere", tmp_path))
    (root / "channels.json").write_text(json.dumps(ABOUT))
    for name in "bcd":
        shutil.rmtree(root / name)
    assert "of 1 series 1 train, 0 validate" in errors(settings(root, tmp_path))
    shutil.rmtree(root / "a")
    assert "no series found. Expected NAME/frames.npy" in errors(settings(root, tmp_path))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"classes": ["fire", "smoke"]}, "data.classes=.*one mask, so one class"),
        ({"patch": [3, 8, 8]}, r"data\.patch=\[3, 8, 8\].*Write data\.patch=\[1,8,8\]"),
        ({"steps": 0}, r"data\.options\.steps=0: must be a whole number"),
        ({"options": {"edition": "huge"}}, r"data\.options\.edition=huge: choose one of small, large"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, more: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        open_source(settings("", tmp_path, **more))


def f1(counts: Sequence[float]) -> float:
    tp, fp, fn = counts
    return 2 * tp / (2 * tp + fp + fn)


def test_generated_fires_can_be_told_from_wind_and_fuel_and_not_from_the_last_frame(tmp_path: Path) -> None:
    data = fire.make(tmp_path / "fires")
    assert is_phantom(data)
    scores, shares = np.zeros((2, 3)), []
    for folder in sorted(data.glob("fire*")):
        frames, mask = np.load(folder / "frames.npy"), np.load(folder / "mask.npy")
        age = np.zeros(mask.shape[1:], np.int64)
        for t in range(len(mask) - 1):
            age = fire.next_age(age, frames[t, 0] > 0)
            np.testing.assert_array_equal((age >= 1) & (age <= fire.BURNS), frames[t, 0] > 0)
            known, truth = mask[t + 1] != fire.UNKNOWN, mask[t + 1] == 1
            np.testing.assert_array_equal(truth, (frames[t + 1, 0] > 0) & known)
            for row, guess in enumerate((frames[t, 0] > 0, fire.chance(age, frames[t]) > 0.5)):
                guess = guess & known
                scores[row] += (guess & truth).sum(), (guess & ~truth).sum(), (truth & ~guess).sum()
        targets = mask[5:]
        shares.append((targets == 1).sum() / (targets != fire.UNKNOWN).sum())
    assert 0.03 < np.mean(shares) < 0.07
    assert min(shares) > 0.01
    persistence, oracle = map(f1, scores)
    assert persistence < 0.75
    assert oracle > 0.88


def test_generated_fires_follow_seed_and_plan(tmp_path: Path) -> None:
    plan = dataclasses.replace(fire.EDITIONS["small"], train=1, validate=1, frames=8, side=24)
    first, again, other = (fire.make(tmp_path / str(n), seed=n // 2, plan=plan) for n in range(3))
    for file in ("channels.json", "split.csv", "fire00/frames.npy", "fire01/mask.npy"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
    assert (first / "fire00/frames.npy").read_bytes() != (other / "fire00/frames.npy").read_bytes()
    with pytest.raises(DataError, match="never replaces"):
        fire.make(tmp_path, plan=plan)


def test_the_default_is_generated_and_a_network_learns_more_than_the_last_frame(
    tmp_path: Path, shared_cache: Path
) -> None:
    """Its picture shows the newest frame of fire."""
    data = {"name": "raster_series", "classes": ["fire"], "patch": [1, 64, 64], "cache_dir": str(shared_cache)} | OFF
    trainer = {"epochs": 3, "iterations_per_epoch": 40, "batch_size": 4, "validation_batches": 8, "lr": 1e-2}
    loss = {"name": "static", "params": {"weights": [1.0]}}
    config = trial_config(data=data, trainer=trainer, model={"width": 12}, loss=loss)
    engine = Engine(trial_settings(config | {"data": data, "task": {"name": "binary"}}), loss, seed=0)
    assert engine.dataset.in_channels == 25
    assert {crop.side for crop in engine.dataset.crops} == {"train", "validate"}
    rows = [engine.run_epoch() for _ in range(3)]
    assert rows[-1]["f1"] > 0.75
    pictures = PredictionPictures(engine)
    em = pictures.arrays(tmp_path)["em"]
    np.testing.assert_array_equal(em, pictures._batch.em[: len(em), 20, 0].numpy())
    assert set(np.unique(em)) == {0, 255}
