"""What is asked of every source, and one that is brought along: found by its file, trained on in two channels."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_trial import trial_config

from trainables import checkpoint
from trainables.data import PackedBatch, PatchSampler, augment, named_classes, open_packed, sources
from trainables.data.augment import plane_map, resample_plane
from trainables.data.check import check
from trainables.engine import Engine
from trainables.errors import DataError, SettingsError
from trainables.inference import inference, load_program, save_program
from trainables.prediction import PredictionPictures
from trainables.settings import DataSettings, trial_settings

CLASSES = ["bright", "both"]


@pytest.fixture
def stained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Settings of the source in `added_sources`, as the section of a config."""
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(Path(__file__).parent / "added_sources")])
    return {"name": "stained", "classes": CLASSES, "patch": [1, 16, 16], "cache_dir": str(tmp_path / "cache")}


@pytest.mark.parametrize("name", sources.source_names())
def test_every_source_refuses_options_it_does_not_have(name: str) -> None:
    with pytest.raises(SettingsError, match=r"data\.options\.bogus=1"):
        sources.open_source(DataSettings(name=name, options={"bogus": 1}))


def test_a_source_is_found_by_its_file_and_checks_its_options(stained: dict[str, Any]) -> None:
    assert sources.source_names() == (
        "cellmap",
        "classified_volumes",
        "labelled_volumes",
        "phantom",
        "raster_series",
        "stained",
    )
    with pytest.raises(SettingsError, match=r"data\.options\.crops=1: must lie in \[2, 100\]"):
        sources.open_source(DataSettings(**stained, options={"crops": 1}))
    assert named_classes(DataSettings(**stained | {"classes": ["auto"]})).classes == ["both", "bright"]
    with pytest.raises(DataError, match=r"brigth is no class of this data\. Did you mean bright"):
        open_packed(DataSettings(**stained | {"classes": ["brigth"]}))


def test_its_crops_are_packed_checked_and_told_apart_by_its_options(stained: dict[str, Any]) -> None:
    settings = DataSettings(**stained)
    assert [f.level for f in check(settings)] == ["info", "info"]
    few, more = open_packed(settings), open_packed(dataclasses.replace(settings, options={"crops": 6}))
    assert [(len(d.crops), d.in_channels, d.leak, d.remarks) for d in (few, more)] == [(4, 2, "", []), (6, 2, "", [])]
    assert few.fingerprint != more.fingerprint
    assert few.crops[0].em.shape == (2, 3, 32, 32)
    assert json.loads((few.folder / "index.json").read_text())["settings"]["source"] == "stained"


def test_another_number_of_channels_than_the_source_says_is_refused(
    stained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(sources.open_source(DataSettings(**stained)))
    monkeypatch.setattr(kind, "in_channels", 3)
    with pytest.raises(DataError, match=r"stained/picture0 has 2 channels, and data\.name=stained says 3"):
        open_packed(DataSettings(**stained))


@pytest.mark.parametrize("more", [{}, {"rotate_degrees": 0.0}], ids=["rotated", "permuted"])
def test_channels_are_augmented_as_each_would_be_by_itself(stained: dict[str, Any], more: dict[str, Any]) -> None:
    dataset = open_packed(DataSettings(**stained | {"patch": [3, 12, 16]} | more))
    batch = PatchSampler(dataset, batch_size=4, seed=0).batch(0)
    em, labels = augment(batch, [3, 12, 16])
    assert em.shape == (4, 2, 3, 12, 16)
    for channel in range(2):
        alone = PackedBatch(batch.em[:, channel : channel + 1].clone(), batch.labels, batch.crop, batch.draws)
        assert torch.equal(augment(alone, [3, 12, 16])[0][:, 0], em[:, channel])
        assert torch.equal(augment(alone, [3, 12, 16])[1], labels)
    if "angle" in batch.draws:  # the path of a card
        matrix = plane_map(**batch.draws)
        assert torch.equal(resample_plane(batch.em, batch.labels, matrix, 12, 16, exact=False)[0], em)


def test_a_network_learns_from_both_channels(stained: dict[str, Any], tmp_path: Path) -> None:
    """`both` needs the second channel; the picture, the checkpoint and the exported program have it, too."""
    trainer = {"epochs": 3, "iterations_per_epoch": 30, "batch_size": 4}
    loss = {"name": "static", "params": {"weights": [1.0, 1.0]}}
    settings = trial_settings(
        trial_config(data=stained, trainer=trainer, model={"width": 8, "depth": 1}, loss=loss) | {"data": stained}
    )
    engine = Engine(settings, loss, seed=0)
    assert engine.model.first[0].in_channels == 2
    rows = [engine.run_epoch() for _ in range(3)]
    assert rows[-1]["dice/both"] > 0.8
    assert math.isfinite(rows[-1]["loss"])
    checkpoint.write(tmp_path / "best.pt", {"model": engine.model.state_dict()})
    assert PredictionPictures(engine).arrays(tmp_path)["em"].shape == (4, 16, 16)
    weights = {name: value.contiguous() for name, value in engine.model.state_dict().items()}
    model = inference(settings, weights, [0.0, 0.0])
    save_program(model, tmp_path / "model.pt2")
    program = load_program(tmp_path / "model.pt2", torch.device("cpu"))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 2, 8, 12), dtype=np.uint8))
    with torch.no_grad():
        torch.testing.assert_close(program(images), model(images))
