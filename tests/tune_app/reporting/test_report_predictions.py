"""The pictures of predictions: what is painted where, and the voxels beside them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report_sweep import write_prediction
from sweep_folder import UNIFORM, WrittenTrial, write_sweep

from tune_app.reporting.findings import Findings, gather
from tune_app.reporting.page import Gallery
from tune_app.reporting.plots import class_color
from tune_app.reporting.predictions import ERRORS, error_image, predictions, read_shown, worst_class
from tune_app.results.pictures import drawn_classes, grey, outline, outlined, rgb
from tune_app.results.sweep import Sweep

TRIALS = [
    WrittenTrial(label="weight_uniform", family="static", signature=UNIFORM, dice=[(0.3, 0.2)]),
    WrittenTrial(label="best", dice=[(0.9, 0.4)]),
]
CLASSES = ("nuc", "pm")


def found(folder: Path, *numbers: int, trials: list[WrittenTrial] = TRIALS) -> Findings:
    """A sweep whose trials `numbers` left a prediction."""
    findings = gather(Sweep(write_sweep(folder, trials)))
    for number in numbers:
        write_prediction(findings.sweep.trials[number].folder, CLASSES, 32, seed=number)
    return findings


def pixels(png: bytes) -> np.ndarray:
    return np.rint(imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(np.uint8)


def test_best_baseline_and_worst_class_are_shown(tmp_path: Path) -> None:
    section = predictions(found(tmp_path / "a", 0, 1))
    overview, worst = section.parts
    assert isinstance(overview, Gallery)
    assert isinstance(worst, Gallery)
    names = [name for name, _ in overview.rows]
    assert names == ["EM", "truth", "prediction of the best", "prediction of the baseline"]
    assert worst.title == "The worst class, pm"
    assert [name for name, _ in worst.rows] == ["EM", "best", "baseline"]
    assert set(worst.data["class"]) == {"pm"}


def test_voxels_are_counted_as_by_hand(tmp_path: Path) -> None:
    findings = found(tmp_path / "a", 1)
    shown = read_shown(findings.sweep.trials[1])
    assert shown
    data = predictions(findings).parts[0].data.set_index(["patch", "class"])
    for m in range(len(shown.em)):
        for c, name in enumerate(CLASSES):
            p, t, k = shown.predicted[m, c], shown.present[m, c], shown.known[m, c]
            row = data.loc[(m, name)]
            assert (row["tp"], row["fp"], row["fn"], row["known"]) == (
                (p & t & k).sum(),
                (p & ~t & k).sum(),
                (~p & t & k).sum(),
                k.sum(),
            )


def test_right_false_and_missed_have_their_colours_and_unknown_is_dark(tmp_path: Path) -> None:
    shown = read_shown(found(tmp_path / "a", 1).sweep.trials[1])
    assert shown
    image = pixels(error_image(shown, 0, 1, "best").png).astype(int)[::6, ::6]
    p, t, k = shown.predicted[0, 1], shown.present[0, 1], shown.known[0, 1]
    under = grey(shown.em[0]).astype(int)
    for mask, (shade, _) in zip((p & t, p & ~t, ~p & t), ERRORS, strict=True):
        expected = under[mask & k] // 3 + np.array(rgb(shade)) * 2 // 3
        np.testing.assert_array_equal(image[mask & k], expected)
    np.testing.assert_array_equal(image[~p & ~t & k], under[~p & ~t & k])
    np.testing.assert_array_equal(image[~k], under[~k] // 3)


@pytest.mark.parametrize(
    ("numbers", "trials", "why"),
    [
        ((1,), TRIALS, "0000_weight_uniform left no pictures"),
        ((0,), TRIALS[:1], "it is the best trial"),
        ((0,), TRIALS[1:], "no run with uniform weights"),
    ],
)
def test_a_missing_baseline_is_explained(
    tmp_path: Path, numbers: tuple[int, ...], trials: list[WrittenTrial], why: str
) -> None:
    section = predictions(found(tmp_path / "a", *numbers, trials=trials))
    assert section.parts
    assert why in section.text[0]


@pytest.mark.parametrize(
    "change", [{"em": np.zeros((2, 8, 8), np.uint8)}, {"crops": np.array(["a"])}, {"labels": None}]
)
def test_arrays_that_do_not_fit_are_no_pictures(tmp_path: Path, change: dict) -> None:
    findings = found(tmp_path / "a", 1)
    path = findings.sweep.trials[1].folder / "prediction.npz"
    with np.load(path) as arrays:
        kept = {k: v for k, v in (dict(arrays) | change).items() if v is not None}
    np.savez(path, **kept)
    assert "left no prediction.npz" in predictions(findings).nothing


def test_the_worst_class_is_the_one_with_the_lowest_dice_that_has_one(tmp_path: Path) -> None:
    trial = Sweep(write_sweep(tmp_path / "a", [WrittenTrial(label="x", dice=[(0.9, 0.4)])])).trials[0]
    assert worst_class(trial, CLASSES) == "pm"
    assert worst_class(trial, ["unknown"]) == ""


def test_a_class_predicted_everywhere_hides_no_other(tmp_path: Path) -> None:
    """Neither below it nor on top of it: only its outline is drawn."""
    shown = read_shown(found(tmp_path / "a", 1).sweep.trials[1])
    assert shown
    masks = shown.predicted.copy()
    for c in range(2):
        assert shown.predicted[0, 1 - c].any()
        masks[:, c], masks[:, 1 - c] = True, shown.predicted[:, 1 - c]
        for order in ([0, 1], [1, 0]):
            picture = outlined(shown, masks, order)[0]
            colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
            assert {rgb(class_color(0)), rgb(class_color(1))} <= colors
            alone = outlined(shown, masks & (np.arange(2) != c)[:, None, None], order)[0]
            np.testing.assert_array_equal(picture[2:-2, 2:-2], alone[2:-2, 2:-2])


def test_an_outline_is_what_lies_near_the_edge() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:9, 2:12] = True
    expected = mask.copy()
    expected[3:7, 4:10] = False
    np.testing.assert_array_equal(outline(mask), expected)


def test_outlines_of_small_classes_are_drawn_last(tmp_path: Path) -> None:
    shown = read_shown(found(tmp_path / "a", 1).sweep.trials[1])
    assert shown
    voxels = (shown.present & shown.known).sum(axis=(0, 2, 3))
    assert [int(voxels[c]) for c in drawn_classes(shown)] == sorted(voxels.tolist(), reverse=True)
