"""The pictures of a trial's best epoch: which patches, and that they are what the best weights predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_trial import CLASSES, loss_of, steady, tiny_dataset, trial_config

from trainables import checkpoint, engine
from trainables.data import PackedBatch
from trainables.data.expand import class_masks, pack_class, packed_bytes
from trainables.prediction import PREDICTION, choose, gather
from trainables.tasks import get_task
from trainables.tasks.multilabel import GAP
from trainables.trial import SegmentationTrial

BEST_IS_FIRST = {"lr": 0.5}
"""A learning rate at which the last epoch is not the best."""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a trial in tmp_path/NAME, up to its first step; closes all of them at the end."""
    monkeypatch.setattr(engine, "open_packed", tiny_dataset)
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))
    started = []

    def begin(name: str = "t", **sections) -> SegmentationTrial:
        started.append(SegmentationTrial(trial_config(tmp_path / name, **sections)))
        return started[-1]

    yield begin
    for trial in started:
        trial.cleanup()


def read(folder) -> dict[str, np.ndarray]:
    with np.load(folder / PREDICTION) as arrays:
        return dict(arrays)


def expected_masks(trial: SegmentationTrial, em: np.ndarray, folder) -> np.ndarray:
    """What the weights of best.pt predict for em (M, H, W), bool (M, C, H, W), one patch at a time."""
    model = trial._engine._new_model().eval()
    model.load_state_dict(checkpoint.read(folder / "best.pt")["model"])
    with torch.no_grad():
        return np.stack([model(torch.from_numpy(e[None, None] / 255).float())[0].numpy() > 0 for e in em])


@pytest.mark.parametrize("trainer", [{}, BEST_IS_FIRST], ids=["last is best", "an earlier epoch is best"])
def test_a_trial_that_ends_leaves_what_its_best_weights_predict(start, tmp_path, trainer):
    trial, folder = start(trainer=trainer), tmp_path / "t"
    while not (row := trial.step())["done"]:
        pass
    arrays = read(folder)
    assert arrays["best_epoch"] == row["best_epoch"]
    assert arrays["em"].shape == (2, 16, 16), "no more patches than a batch has"
    assert list(arrays["classes"]) == list(CLASSES)
    bits = np.unpackbits(arrays["predicted"], axis=1, bitorder="little", count=len(CLASSES)).astype(bool)
    assert (bits == expected_masks(trial, arrays["em"], folder)).mean() > 0.999  # an x at the threshold may round


def test_a_running_trial_shows_its_best_epoch_so_far_every_few_epochs(start, tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.trial.PICTURE_EVERY", 2)
    trial, folder = start(trainer={"epochs": 6}), tmp_path / "t"
    shown, best = [], []
    for _ in range(5):
        best.append(trial.step()["best_epoch"])
        arrays = read(folder)
        shown.append(int(arrays["best_epoch"]))
        if shown[-1] == best[-1] and shown[-1] not in shown[:-1]:
            bits = np.unpackbits(arrays["predicted"], axis=1, bitorder="little", count=len(CLASSES)).astype(bool)
            assert (bits == expected_masks(trial, arrays["em"], folder)).mean() > 0.999
    due = [1]
    for epoch, is_best in enumerate((b == e for e, b in enumerate(best, 1)), 1):
        due.append(epoch if is_best and epoch >= due[-1] + 2 else due[-1])
    assert shown == due[1:]


def test_pictures_on_the_way_change_nothing_that_is_trained(start, tmp_path, monkeypatch):
    rows = {}
    for every in (1, 99):
        monkeypatch.setattr("trainables.trial.PICTURE_EVERY", every)
        trial = start(str(every))
        rows[every] = [steady(trial.step()) for _ in range(4)]
    assert rows[1] == rows[99]


def test_the_patches_are_validation_patches_with_their_truth(start, tmp_path):
    trial = start()
    while not trial.step()["done"]:
        pass
    arrays = read(tmp_path / "t")
    known = [
        (batch.em[n, 0, 0].numpy().tobytes(), batch.labels[n, :, 0].numpy().tobytes(), trial._engine.validator.crops[c])
        for batch in trial._engine.validator.batches
        for n, c in enumerate(batch.crop.tolist())
    ]
    for em, labels, crop in zip(arrays["em"], arrays["labels"], arrays["crops"]):
        assert (em.tobytes(), labels.tobytes(), crop) in known


def test_a_trial_that_is_stopped_early_leaves_its_prediction_when_the_next_begins(start, tmp_path):
    trial = start()
    trial.step()
    trial.reset_config(trial_config(tmp_path / "next", loss=loss_of("static"), seed=1))
    assert read(tmp_path / "t")["best_epoch"] == 1
    assert not (tmp_path / "next").exists()


def test_the_next_trial_is_not_changed_by_the_picture(start, tmp_path):
    """Making it puts the best weights back into the model; the next trial starts afresh all the same."""
    alone = start("alone", seed=3)
    expected = [alone.step()["loss"] for _ in range(2)]
    trial = start(trainer=BEST_IS_FIRST)
    while not trial.step()["done"]:
        pass
    trial.reset_config(trial_config(tmp_path / "next", seed=3))
    assert [trial.step()["loss"] for _ in range(2)] == expected


def test_a_lost_checkpoint_costs_the_picture_and_not_the_trial(start, tmp_path):
    trial = start(trainer=BEST_IS_FIRST)
    for _ in range(3):
        trial.step()
    (tmp_path / "t" / "best.pt").unlink()
    best_epochs = trial._engine.record.best_epoch
    assert trial.step()["done"]
    assert best_epochs < 4
    assert read(tmp_path / "t")["best_epoch"] == 1, "the picture that was there stays"
    assert f"no {PREDICTION}" in (tmp_path / "t" / "trial.log").read_text()


def test_rare_classes_are_shown_first_and_then_the_richest_patches():
    first = np.array([[9, 0, 0], [8, 1, 0], [7, 0, 0]])
    second = np.array([[6, 5, 4], [5, 5, 0], [0, 2, 3]])
    crops = [[0, 0, 1], [0, 2, 0]]
    assert choose([first, second], crops, 1) == [(1, 0)], "the one with most of the rarest class"
    assert choose([first, second], crops, 2) == [(1, 0), (1, 1)], "it has half of the others too; then another crop"
    assert choose([first, second], crops, 9) == [(1, 0), (1, 1), (0, 2), (0, 1), (1, 2), (0, 0)]


def test_patches_are_gathered_to_a_full_batch_and_counted():
    labels = torch.zeros((2, packed_bytes(3), 3, 4, 4), dtype=torch.uint8)
    planes = labels[1].numpy()
    present = np.zeros((3, 4, 4), bool)
    present[1, 0], present[2] = True, True
    pack_class(planes, 2, 3, present, np.ones_like(present))
    batch = PackedBatch(
        torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 1, 3, 4, 4), labels, torch.tensor([5, 6])
    )
    assert get_task("multilabel").shown(batch, CLASSES).tolist() == [[0, 0, 0], [0, 0, 4 + 16]]
    full = gather([batch, batch], [(1, 1), (0, 0)], 4)
    assert full.crop.tolist() == [6, 5, 5, 5]
    assert class_masks(full.labels[0].numpy(), 2, 3)[0].sum() == present.sum()


def test_a_3d_patch_is_shown_as_three_planes_through_most_to_see():
    shape = (4, 6, 8)
    rng = np.random.default_rng(0)
    em = rng.integers(1, 255, (2, 1, *shape), dtype=np.uint8)
    present = np.zeros((3, *shape), bool)
    present[0, 3, 2:4, 1] = present[1, :, 3, 5] = present[2, 3, :, 5] = True
    labels = np.zeros((2, packed_bytes(3), *shape), np.uint8)
    for c in range(3):
        pack_class(labels[0], c, 3, present[c], np.ones(shape, bool))
    logits = torch.from_numpy(rng.normal(size=(2, 3, *shape)).astype(np.float32))
    batch = PackedBatch(torch.from_numpy(em), torch.from_numpy(labels), torch.tensor([0, 1]))
    shown = get_task("multilabel").picture(batch, logits, CLASSES)
    predicted = np.packbits(logits.numpy() > 0, axis=1, bitorder="little")
    for n, (z, y, x) in enumerate([(3, 3, 5), (2, 3, 4)]):  # the second has nothing positive: its middle
        for key, volume in (("em", em[n, 0]), ("labels", labels[n]), ("predicted", predicted[n])):
            plane = shown[key][n]
            assert plane.shape[-2:] == (6 + 4 + 2 * GAP, 8 + 4 + 2 * GAP)
            np.testing.assert_array_equal(plane[..., :6, :8], volume[..., z, :, :])
            np.testing.assert_array_equal(plane[..., 6 + GAP : -GAP, :8], volume[..., y, :])
            np.testing.assert_array_equal(plane[..., :6, 8 + GAP : -GAP], volume[..., x].swapaxes(-1, -2))
            assert not plane[..., 6:, 8:].any()
