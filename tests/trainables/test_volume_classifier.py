"""A label for a volume: sizes, a V-JEPA 2 from a local folder, and an encoder that is frozen for some epochs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trial import tiny_dataset, tiny_settings

from trainables import models
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.settings import ModelSettings, network_preset, trial_settings

PATCH = [4, 32, 32]
SMALL = {
    "patch_size": 16,
    "crop_size": 32,
    "frames_per_clip": 8,
    "tubelet_size": 2,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V-JEPA 2 of 0.1 M parameters, drawn at random, as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    place = tmp_path_factory.mktemp("encoder") / "vjepa2"
    transformers.VJEPA2Model(transformers.VJEPA2Config(**SMALL)).save_pretrained(place)
    return place


def classifier(patch: list[int] = PATCH, channels: int = 1, **options: Any) -> Any:
    settings = ModelSettings(name="volume_classifier", width=4, depth=1, options=options)
    return models.build(settings, in_channels=channels, num_classes=4, patch=patch)


def test_the_preset_is_as_large_as_the_published_encoder() -> None:
    found = network_preset("volume_classifier")
    with torch.device("meta"):
        network = models.build(
            ModelSettings(**found["model"]), in_channels=1, num_classes=4, patch=found["data"]["patch"]
        )
    assert sum(p.numel() for p in network.encoder.parameters()) / 1e6 == pytest.approx(29.4, rel=0.03)


def test_a_pretrained_encoder_is_the_mean_of_its_tokens_of_normalised_frames(folder: Path) -> None:
    from transformers import VJEPA2Model

    network = classifier(encoder=str(folder)).eval()
    image = torch.rand(2, 1, *PATCH)
    frames = torch.stack([image[:, 0]] * 3, dim=2)  # (N, D, 3, H, W)
    mean, sd = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own = VJEPA2Model.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        expected = own(pixel_values_videos=(frames - mean) / sd, skip_predictor=True).last_hidden_state.mean(1)
        torch.testing.assert_close(network.encoder(image), expected)
        assert network(image).shape == (2, 4, 1, 1, 1)


def test_what_of_a_pretrained_encoder_is_trained_gets_a_gradient(folder: Path) -> None:
    network = classifier(encoder=str(folder), head="mlp")
    network(torch.rand(2, 1, *PATCH)).square().sum().backward()
    trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None] == []
    assert any("predictor" in name for name, p in network.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("patch", "channels", "words"),
    [
        ([7, 32, 32], 1, r"data.patch=\[7, 32, 32\]: the encoder takes a multiple of 2 slices.*\[6,32,32\]"),
        ([10, 32, 32], 1, r"at most 8; .*\[8,32,32\]"),
        ([4, 40, 32], 1, r"multiples of 16.*\[4,32,32\]"),
        (PATCH, 3, "takes grey volumes, and these have 3 channels"),
    ],
)
def test_what_a_pretrained_encoder_cannot_take_is_refused(
    folder: Path, patch: list[int], channels: int, words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        classifier(patch, channels, encoder=str(folder))


def test_a_folder_without_a_usable_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(SettingsError, match=f"model.options.encoder={tmp_path}.*{words}"):
            classifier(encoder=str(tmp_path / "encoder"))

    refused("no such folder")
    (tmp_path / "encoder").mkdir()
    refused("holds no config.json")
    (tmp_path / "encoder" / "config.json").write_bytes((folder / "config.json").read_bytes())
    refused("holds no weights")
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"nothing")
    refused("weights cannot be read")
    (tmp_path / "encoder" / "config.json").write_text('{"model_type": "bert"}')
    refused("holds a bert")


def test_a_pretrained_encoder_keeps_its_weights_in_every_trial(folder: Path) -> None:
    first = classifier(encoder=str(folder)).encoder.state_dict()
    torch.manual_seed(99)
    again = classifier(encoder=str(folder)).encoder.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_nothing_imports_transformers_without_being_asked() -> None:
    modules = "tune_app.run, trainables.engine, trainables.models.volume_classifier"
    asked = f"import sys, {modules}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def engine_of(**trainer: Any) -> Engine:
    """Of samples whose class is the brightness of the volume."""
    settings = tiny_settings(
        model={"name": "volume_classifier", "width": 4, "depth": 1},
        data={"patch": [4, 16, 16], "mirror_y": False},
        trainer={"iterations_per_epoch": 4, "batch_size": 4, **trainer},
        task={"name": "classification"},
    )
    loss = {"name": "cross_entropy", "params": {"weights": [1.0, 1.0, 1.0], "epsilon": 0.05}}
    return Engine(settings, loss, seed=0, dataset=labelled(settings.data))


def labelled(data: Any) -> Any:
    """The tiny data set with one label for each crop, in turn."""
    from dataclasses import replace

    import numpy as np

    from trainables.data.expand import pack_class, packed_bytes

    dataset, crops = tiny_dataset(data), []
    for number in range(12):
        label, shape = number % 3, (4, 16, 16)
        rng = np.random.default_rng(number)
        labels = np.zeros((packed_bytes(3), 1, 1, 1), np.uint8)
        for c in range(3):
            pack_class(labels, c, 3, np.full((1, 1, 1), c == label), np.ones((1, 1, 1), bool))
        crops.append(
            replace(
                dataset.crops[0],
                name=f"volume{number}",
                side="validate" if number >= 9 else "train",
                shape=shape,
                offset=(0, 0, 0),
                em=rng.integers(60 * label, 60 * label + 60, shape, np.uint8),
                labels=np.broadcast_to(labels, (len(labels), *shape)),
                positive=np.array([int(c == label) for c in range(3)]),
                known=np.ones(3, np.int64),
                positions=np.zeros((3, 1, 3), np.int32),
            )
        )
    return replace(dataset, crops=tuple(crops))


def encoder_of(engine: Engine) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in engine.model.encoder.parameters()])


def test_an_encoder_is_frozen_before_its_epoch_and_trained_from_it_on() -> None:
    engine = engine_of(unfreeze_epoch=2, lr_encoder=1e-3)
    start, head = encoder_of(engine), engine.model.head[-1].weight.detach().clone()
    engine.run_epoch()
    assert torch.equal(encoder_of(engine), start)
    assert not torch.equal(engine.model.head[-1].weight, head)
    engine.run_epoch()
    assert not torch.equal(encoder_of(engine), start)


def test_a_frozen_encoder_of_one_trial_is_trained_in_the_next_and_the_rows_are_those_of_a_fresh_engine() -> None:
    engine = engine_of(unfreeze_epoch=-1)
    start = encoder_of(engine)
    engine.run_epoch()
    assert torch.equal(encoder_of(engine), start)
    trainer = engine_of().settings.trainer
    engine.reset({"name": "cross_entropy", "params": {"weights": [1.0] * 3}}, 0, trainer)
    other = engine_of()
    other.reset({"name": "cross_entropy", "params": {"weights": [1.0] * 3}}, 0, trainer)
    first, second = engine.run_epoch(), other.run_epoch()
    assert (first["loss"], first["weight_growth"]) == (second["loss"], second["weight_growth"])
    assert not torch.equal(encoder_of(engine), start)


def test_head_and_encoder_have_learning_rates_of_their_own_in_one_schedule() -> None:
    engine = engine_of(lr=1e-2, lr_encoder=1e-4, warmup_steps=4)
    engine.run_epoch()
    head, encoder = engine.optim.optimizer.param_groups
    assert encoder["lr"] == pytest.approx(head["lr"] / 100)
    assert len(head["params"]) + len(encoder["params"]) == len(list(engine.model.parameters()))


def test_a_trial_goes_on_bit_for_bit_across_the_epoch_of_unfreezing() -> None:
    straight, resumed = engine_of(unfreeze_epoch=2, lr_encoder=1e-3), engine_of(unfreeze_epoch=2, lr_encoder=1e-3)
    rows = [straight.run_epoch() for _ in range(3)]
    first = engine_of(unfreeze_epoch=2, lr_encoder=1e-3)
    first.run_epoch()
    resumed.load_state_dict(first.state_dict())
    again = [resumed.run_epoch() for _ in range(2)]
    assert [row["loss"] for row in again] == [row["loss"] for row in rows[1:]]
    assert torch.equal(encoder_of(resumed), encoder_of(straight))


def test_accumulated_batches_are_the_training_of_one_large_batch() -> None:
    large, small = engine_of(batch_size=4), engine_of(batch_size=1, accumulate=4)
    assert large.sampler.batch_size == 4 * small.sampler.batch_size
    generator = torch.Generator().manual_seed(0)
    em = torch.randint(0, 256, (4, 1, 4, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.from_numpy(large.dataset.crops[1].labels.copy())[None].expand(4, -1, -1, -1, -1)
    for engine in (large, small):
        engine.model.train()
        for part in range(4 if engine is small else 1):
            share = slice(part, part + 1) if engine is small else slice(None)
            engine.train_on(em[share], labels[share], part)
    torch.testing.assert_close(encoder_of(small), encoder_of(large), rtol=1e-4, atol=1e-6)


def test_training_is_told_before_validation_and_a_row_has_both() -> None:
    row = engine_of().run_epoch()
    assert {"train_balanced_accuracy", "balanced_accuracy", "entropy_of_predictions"} <= row.keys()
    assert sum(row[f"support/{c}"] for c in ("dark", "mid", "bright")) == 3


def test_a_label_for_each_voxel_and_one_for_each_image_do_not_go_together() -> None:
    settings = tiny_settings(task={"name": "classification"})
    loss = {"name": "cross_entropy", "params": {"weights": [1.0] * 3}}
    with pytest.raises(SettingsError, match=r"model.name=unet: has a label for each voxel.*volume_classifier"):
        Engine(settings, loss, seed=0, dataset=tiny_dataset(settings.data))
    settings = tiny_settings()
    with pytest.raises(SettingsError, match=r"task.name=multilabel: loss cross_entropy is for one label"):
        Engine(settings, loss, seed=0, dataset=tiny_dataset(settings.data))


def test_a_network_without_an_encoder_refuses_what_is_about_one() -> None:
    settings = tiny_settings(trainer={"unfreeze_epoch": 2})
    loss = {"name": "static", "params": {"weights": [1.0] * 3}}
    with pytest.raises(SettingsError, match=r"trainer.unfreeze_epoch=2: this network has no encoder"):
        Engine(settings, loss, seed=0, dataset=tiny_dataset(settings.data))


def test_trial_settings_of_an_earlier_version_train_everything() -> None:
    trainer = trial_settings({}).trainer
    assert (trainer.unfreeze_epoch, trainer.lr_encoder) == (0, 0.0)
