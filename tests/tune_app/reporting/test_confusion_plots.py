"""The confusion matrix and the predictions of each epoch, in the report and in TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainables.objective import Objective
from tune_app.ray_adapters.tensorboard import CONFUSION, EventFile
from tune_app.reporting.confusion import confusions
from tune_app.results.trial import Trial

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
COUNTS = np.array([[[5, 0], [3, 0]], [[4, 1], [0, 3]]])
"""Of two epochs: all are a, then nearly all right."""


def trial(folder: Path, name: str = "0001_x", **arrays: Any) -> Trial:
    folder.mkdir(exist_ok=True)
    kept = {"confusion": COUNTS[:, None], "epochs": np.array([1, 2]), "classes": np.array(["a", "b"])} | arrays
    np.savez(folder / "validation.npz", **kept)
    rows = [{"epoch": e, "balanced_accuracy": s, "entropy": 0.5} for e, s in ((1, 0.5), (2, 0.9))]
    return Trial(name, 1, folder, "finished", Objective(metric="balanced_accuracy"), history=tuple(rows))


def test_the_matrix_of_the_best_epoch_and_the_share_of_each_class_over_the_epochs(tmp_path: Path) -> None:
    best, base = trial(tmp_path / "best"), trial(tmp_path / "base", "0000_y")
    plots = {plot.key: plot for plot in confusions(best, base)}
    assert set(plots) == {"confusion-best", "confusion-baseline", "predicted-best", "predicted-baseline"}
    assert plots["confusion-best"].data["samples"].tolist() == [4, 1, 0, 3]
    assert "a 4 of 5, b 3 of 3" in plots["confusion-best"].alt
    assert plots["predicted-best"].data["share of a"].tolist() == [1.0, 0.5]
    assert len(confusions(best, best)) == 2


def test_a_trial_of_another_task_has_none(tmp_path: Path) -> None:
    other = trial(tmp_path / "best")
    np.savez(other.folder / "validation.npz", epochs=np.array([1]), tp=np.ones((1, 1, 2)))
    assert confusions(other, None) == []


def test_tensorboard_shows_the_matrix_of_an_epoch(tmp_path: Path) -> None:
    file = EventFile(trial(tmp_path / "best").folder)
    for epoch in (1, 2, 3):  # the third is not there yet
        file.write_confusion(epoch)
    file.close()
    events = EventAccumulator(str(tmp_path / "best")).Reload()
    shown = events.Images(CONFUSION)
    assert [event.step for event in shown] == [1, 2]
    cells = np.array(PIL.Image.open(io.BytesIO(shown[0].encoded_image_string)))[::32, ::32]
    assert cells.tolist() == [[0, 255], [0, 255]]
