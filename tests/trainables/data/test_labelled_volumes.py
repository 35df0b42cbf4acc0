"""Pairs of an image and its labels: what is read, what 2 means, folds, generated sheets; and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from tiny_trial import trial_config

from trainables.data import open_packed
from trainables.data.check import check
from trainables.data.expand import class_masks
from trainables.data.phantom import sheets
from trainables.data.sources import labelled_volumes, open_source
from trainables.engine import Engine
from trainables.errors import DataError, SettingsError
from trainables.settings import DataSettings, trial_settings

SHAPE = (5, 9, 8)
ALL = "abcdefg"


def save(path: Path, array: Any, kind: str = "tif") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "npy":
        np.save(path.with_suffix(".npy"), array)
    elif kind.startswith("zarr"):
        zarr.create_array(path.with_suffix(".zarr"), data=array, chunks=(2, 4, 8), zarr_format=int(kind[-1]))
    else:
        more = {"compression": "zlib"} if kind == "deflate" else {}
        tifffile.imwrite(path.with_suffix(".tif"), array, photometric="minisblack", **more)


def write_pair(root: Path, name: str, *, kind: str = "tif", shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Any:
    """An image and labels, uint8, each value of the labels alike."""
    rng = np.random.default_rng([seed, ord(name[0])])
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = rng.integers(0, 3, shape, dtype=np.uint8)
    save(root / "images" / name, image, kind)
    save(root / "labels" / name, labels, kind)
    return image, labels


def settings(root: Path | str, cache: Path, *, options: Any = None, **more: Any) -> DataSettings:
    given = {"classes": ["surface"], "patch": [4, 8, 8], "cache_dir": str(cache)} | more
    return DataSettings(name="labelled_volumes", root=str(root), options=options or {}, **given)


def errors(found: DataSettings) -> str:
    return "\n".join(str(finding) for finding in check(found) if finding.level == "error")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven pairs a … g."""
    for name in ALL:
        write_pair(tmp_path / "data", name)
    return tmp_path / "data"


@pytest.mark.parametrize("treatment", labelled_volumes.TREATMENTS)
def test_two_is_unknown_or_what_the_option_says(root: Path, tmp_path: Path, treatment: str) -> None:
    dataset = open_packed(settings(root, tmp_path, options={"unlabelled": treatment, "fold": 1}))
    assert [crop.name for crop in dataset.crops] == list(ALL)
    for crop in dataset.crops:
        labels = tifffile.imread(root / "labels" / f"{crop.name}.tif")
        present, known = class_masks(crop.labels, 0, 1)
        positive = labels > 0 if treatment == "foreground" else labels == 1
        np.testing.assert_array_equal(present, positive)
        np.testing.assert_array_equal(known, labels != 2 if treatment == "unknown" else True)
        np.testing.assert_array_equal(crop.em, tifffile.imread(root / "images" / f"{crop.name}.tif"))
        assert crop.label_counts == {str(v): int((labels == v).sum()) for v in range(3)}


def test_the_foreground_is_told_both_ways(root: Path, tmp_path: Path) -> None:
    labels = np.stack([tifffile.imread(path) for path in (root / "labels").iterdir()])
    annotated, everywhere = 100 * (labels == 1).sum() / (labels < 2).sum(), 100 * (labels > 0).mean()
    told = f"surface is {annotated:.3g} % of the annotated voxels (unlabelled=unknown); labels > 0 are {everywhere:.3g}"
    assert f"info: labels: {told}" in "\n".join(map(str, check(settings(root, tmp_path))))
    (remark,) = open_packed(settings(root, tmp_path)).remarks
    assert remark.startswith(told)
    assert remark.endswith("Here unlabelled=unknown")


def test_every_format_is_the_same_data(tmp_path: Path) -> None:
    prints = set()
    for kind in ("tif", "deflate", "npy", "zarr2", "zarr3"):
        for name in ALL:
            write_pair(tmp_path / kind, name, kind=kind)
        prints.add(open_packed(settings(tmp_path / kind, tmp_path)).fingerprint)
    assert len(prints) == 1


def test_volumes_are_read_some_planes_at_a_time(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("tif", "zarr3"):
        write_pair(tmp_path / kind, "a", kind=kind)
        whole = open_packed_one(tmp_path / kind, tmp_path)
        monkeypatch.setattr(labelled_volumes, "AT_ONCE", 80)
        monkeypatch.setattr("trainables.data.packing.LAYOUT_VERSION", f"another {kind}")
        parts = open_packed_one(tmp_path / kind, tmp_path)
        np.testing.assert_array_equal(whole.labels, parts.labels)
        np.testing.assert_array_equal(whole.em, parts.em)
        monkeypatch.undo()


def open_packed_one(root: Path, cache: Path) -> Any:
    source = open_source(settings(root, cache))
    return source.decode(source._pairs[0]["a"])


def test_a_window_makes_grey_values_of_any_numbers(root: Path, tmp_path: Path) -> None:
    values = np.linspace(-100, 1100, int(np.prod(SHAPE))).reshape(SHAPE)
    for name in ALL:
        tifffile.imwrite(root / "images" / f"{name}.tif", values.astype(np.float32))
    told = errors(settings(root, tmp_path))
    assert f"{root}/images/a.tif: its values are float32, and networks see uint8. Say which of them become" in told
    assert "for example data.options.window=[" in told
    about = settings(root, tmp_path, options={"window": [0, 1000]})
    em = open_packed(about).crops[0].em
    np.testing.assert_allclose(em, values.clip(0, 1000) / 1000 * 255, atol=0.51)
    (warning,) = {finding.message for finding in check(about) if finding.level == "warning"}
    assert warning == "16.7 % of the image lie outside [0, 1000], clipped"


def sides(found: DataSettings) -> dict[str, str]:
    return {item.name: item.side for item in open_source(found).items()}


def test_every_volume_validates_in_exactly_one_fold(root: Path, tmp_path: Path) -> None:
    for folds in (2, 5, 7):
        for seed in range(3):
            found = [
                sides(settings(root, tmp_path, split_seed=seed, options={"fold": fold, "folds": folds}))
                for fold in range(folds)
            ]
            assert [sum(of[name] == "validate" for of in found) for name in ALL] == [1] * len(ALL)
            sizes = [sum(side == "validate" for side in of.values()) for of in found]
            assert max(sizes) - min(sizes) <= 1
    assert sides(settings(root, tmp_path)) == sides(settings(root, tmp_path, options={"fold": 0, "folds": 5}))
    drawn = {tuple(sides(settings(root, tmp_path, split_seed=seed)).values()) for seed in range(8)}
    assert len(drawn) > 1


def test_a_split_file_decides_and_its_test_side_stays_out_of_the_folds(root: Path, tmp_path: Path) -> None:
    (root / "split.csv").write_text("side,volume\ntest,c\ntest,e\nvalidate,a\ntrain,b\ntrain,d\n")
    told = {"a": "validate", "b": "train", "c": "test", "d": "train", "e": "test"}
    assert sides(settings(root, tmp_path)) == told
    remark, _ = open_packed(settings(root, tmp_path)).remarks
    assert remark == "2 volumes have no side in the split and are left out: f, g"
    for fold in range(5):
        found = sides(settings(root, tmp_path, options={"fold": fold}))
        assert {name for name, side in found.items() if side == "test"} == {"c", "e"}
        assert sum(side == "validate" for side in found.values()) == 1
    other = tmp_path / "mine.csv"
    other.write_text("validate,g\ntrain,a\n")
    assert sides(settings(root, tmp_path, split_file=str(other))) == {"a": "train", "g": "validate"}


def test_a_volume_smaller_than_the_patch_is_unknown_round_it(tmp_path: Path) -> None:
    for name in ALL:
        write_pair(tmp_path / "data", name, shape=(3, 6, 5))
    data = dataclasses.asdict(settings(tmp_path / "data", tmp_path, patch=[8, 16, 16]))
    loss = {"name": "static", "params": {"weights": [1.0]}}
    config = trial_config(model={"width": 4, "depth": 1}, loss=loss) | {"data": data, "task": {"name": "binary"}}
    engine = Engine(trial_settings(config), loss, seed=0)
    assert np.isfinite(engine.run_epoch()["loss"])
    known = {crop.name: crop.known[0] for crop in engine.dataset.crops if crop.side == "validate"}
    batches = [engine.validator.batches[n] for n in range(len(engine.validator.batches))]
    for batch in batches:
        target = engine.task.target(batch.labels, ["surface"])
        for n, crop in enumerate(batch.crop.tolist()):
            assert int((~target[n].isnan()).sum()) == known[engine.validator.crops[crop]]


def break_shape(root: Path) -> None:
    save(root / "labels" / "a", np.zeros((5, 8, 8), np.uint8))


def break_nan(root: Path) -> None:
    image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    image[0, 0, :3] = np.nan
    image[1, 1, 1] = np.inf
    save(root / "images" / "a", image)


def relabel(value: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in ALL:
            save(root / "labels" / name, np.full(SHAPE, value, np.uint8))

    return change


def break_values(root: Path) -> None:
    labels = tifffile.imread(root / "labels" / "a.tif")
    labels[0, 0, :4], labels[2, 2, 2] = 7, 255
    save(root / "labels" / "a", labels)


def cut_short(root: Path) -> None:
    path = root / "images" / "a.tif"
    path.write_bytes(path.read_bytes()[:300])


BROKEN: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "shape": (break_shape, {}, "labels/a.tif: shape (5, 8, 8); (5, 9, 8) is needed, that of"),
    "NaN": (break_nan, {"window": [0, 1]}, "images/a.tif: 4 of 360 values are NaN or infinite"),
    "values": (break_values, {}, "labels/a.tif: holds 7 (4 times), 255 (1 times); allowed are 0 (background), 1 (surf"),
    "fraction": (
        lambda root: save(root / "labels" / "a", np.full(SHAPE, 0.5, np.float32)),
        {},
        "labels/a.tif: holds 0.5 (360 times); allowed",
    ),
    "no labels": (lambda root: (root / "labels" / "b.tif").unlink(), {}, "images/b.tif: nothing of that name in"),
    "no image": (lambda root: (root / "images" / "c.tif").unlink(), {}, "labels/c.tif: nothing of that name in"),
    "twice": (lambda root: save(root / "images" / "a", np.ones(SHAPE), "npy"), {}, "a.npy, a.tif have the same name"),
    "blank": (
        lambda root: save(root / "images" / "a", np.full(SHAPE, 9, np.uint8)),
        {},
        "images/a.tif: is empty: every voxel has the grey value 9",
    ),
    "no voxel": (
        lambda root: (
            save(root / "images" / "a", np.zeros((0, 9, 8), np.uint8), "zarr3") or (root / "images" / "a.tif").unlink()
        ),
        {},
        "images/a.zarr: (0, 9, 8) of type uint8; numbers (z, y, x) are needed",
    ),
    "cut short": (cut_short, {}, "images/a.tif"),
    "no surface": (relabel(0), {}, "there is no surface on this side (1800 labels are 0, 0 are 1, 0 are 2)"),
    "only surface": (relabel(1), {}, "there is only surface on this side (0 labels are 0, 1800 are 1"),
    "unlabelled": (relabel(2), {}, "nothing is annotated: all 1800 labels are 2 (unlabelled)"),
    "label > 0": (relabel(2), {"unlabelled": "foreground"}, "there is only surface on this side"),
    "no side": (lambda root: (root / "split.csv").write_text("train,a\n"), {}, "no volume on side validate"),
    "split": (lambda root: (root / "split.csv").write_text("train,z\n"), {}, "split.csv:1: z is no volume; there are"),
    "folds": (lambda root: None, {"folds": 9}, "7 volumes cannot be divided into data.options.folds=9; use"),
    "folders": (lambda root: None, {"images": "i", "labels": "l"}, "no volumes found. Expected i/NAME and l/NAME"),
}


@pytest.mark.parametrize(("damage", "options", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_said_by_check_and_stops_a_run(
    root: Path, tmp_path: Path, damage: Callable[[Path], Any], options: dict[str, Any], expected: str
) -> None:
    damage(root)
    found = settings(root, tmp_path, options=options)
    assert expected in errors(found)
    with pytest.raises(DataError) as raised:
        open_packed(found)
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"classes": ["surface", "ink"]}, "data.classes=.*one label, so one class"),
        ({"options": {"fold": 5}}, r"data\.options\.fold=5: folds are numbered from 0, so .* in \[0, 4\]"),
        ({"options": {"fold": -1}}, r"data\.options\.fold=-1"),
        ({"options": {"fold": 3, "folds": 3}}, r"data\.options\.fold=3: .* in \[0, 2\]"),
        ({"options": {"folds": 1}}, r"data\.options\.folds=1: must be a whole number in \[2, 1000\]"),
        ({"options": {"unlabelled": "ink"}}, r"unlabelled=ink: choose one of unknown, foreground, background"),
        ({"options": {"window": [5, 5]}}, r"window=\[5, 5\]: two numbers are needed, the lower one first"),
        ({"options": {"window": [5]}}, r"window=\[5\]: two numbers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, more: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        open_source(settings("", tmp_path, **more))


def test_generated_sheets_are_thin_and_follow_their_seed(tmp_path: Path) -> None:
    plan = dataclasses.replace(sheets.SMALL, train=2, validate=1, side=48)
    first, again, other = (sheets.make(tmp_path / str(n), seed=n // 2, plan=plan) for n in range(3))
    same = ("split.csv", "images/sheets00.tif", "labels/sheets02.tif")
    assert all((first / file).read_bytes() == (again / file).read_bytes() for file in same)
    assert (first / same[1]).read_bytes() != (other / same[1]).read_bytes()
    for number in range(3):
        labels = tifffile.imread(first / "labels" / f"sheets{number:02d}.tif")
        image = tifffile.imread(first / "images" / f"sheets{number:02d}.tif")
        surface, annotated = labels == 1, labels != 2
        assert (image.shape, image.dtype) == (labels.shape, np.uint8)
        assert 0.1 < surface.sum() / annotated.sum() < 0.4
        assert 0.25 < annotated.mean() < 0.75
        runs = min(longest_runs(surface, axis) for axis in range(3))  # across the sheets
        assert 1 <= runs <= 4


def longest_runs(mask: np.ndarray, axis: int) -> float:
    """The median length of runs of True along an axis."""
    lines = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis]).astype(int)
    edges = np.diff(np.pad(lines, ((0, 0), (1, 1))), axis=1)
    return float(np.median(np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]))


def test_the_default_is_generated_and_a_small_network_learns_it(tmp_path: Path, shared_cache: Path) -> None:
    data = {"name": "labelled_volumes", "classes": ["surface"], "patch": [16, 32, 32], "cache_dir": str(shared_cache)}
    trainer = {"epochs": 2, "iterations_per_epoch": 30, "batch_size": 2, "validation_batches": 8, "lr": 1e-2}
    loss = {"name": "static", "params": {"weights": [1.0]}}
    config = trial_config(trainer=trainer, model={"width": 8, "depth": 2}, loss=loss)
    engine = Engine(trial_settings(config | {"data": data, "task": {"name": "binary"}}), loss, seed=0)
    rows = [engine.run_epoch() for _ in range(2)]
    everywhere = 2 * rows[0]["fg_true/surface"] / (1 + rows[0]["fg_true/surface"])
    assert rows[-1]["calibrated_f1"] > everywhere + 0.1
    assert {crop.side for crop in engine.dataset.crops} == {"train", "validate"}
