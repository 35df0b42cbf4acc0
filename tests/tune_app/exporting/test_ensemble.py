"""The best network for each class, exported as one: chosen, measured on other crops, run, shown, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from documents import checked
from sweep_folder import EDGES, WrittenTrial, histograms, write_sweep
from tiny_export import CLASSES, Context

from trainables import calibration, inference, metrics
from trainables.inference import Inference, PerClass
from tune_app.errors import InputError
from tune_app.exporting.export import ExportSettings, export, told_of_ensemble
from tune_app.exporting.predict import PredictSettings, predict
from tune_app.exporting.show import ShowSettings, show
from tune_app.exporting.trained_model import read_model
from tune_app.results.manifest import read_manifest
from tune_app.results.run import find_run
from tune_app.search.arms import read_exported
from tune_app.settings.document import as_json

NUC = WrittenTrial(label="good_nuc", dice=[(0.9, 0.5)])
PM = WrittenTrial(label="good_pm", dice=[(0.6, 0.7)])
POOR = WrittenTrial(label="poor", dice=[(0.2, 0.1)])


def drawn(seed: int) -> Inference:
    """A network of its own."""
    network = Context(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(seed))
    return Inference(network, [0.1 * seed, -0.1]).eval()


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of three trials whose networks are drawn, each good at another class."""
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    sweep = write_sweep(tmp_path / "results" / "a", [NUC, PM, POOR])
    for seed, trial in enumerate(sorted((sweep / "trials").iterdir())):
        torch.save(
            {"model": drawn(seed).network.state_dict(), "epoch": 1, "inference_shift": [0.1 * seed, -0.1]},
            trial / "best.pt",
        )

    def built(settings: object, weights: dict[str, torch.Tensor], shift: list[float]) -> Inference:
        network = Inference(Context(2), shift).eval()
        network.network.load_state_dict(weights)
        return network

    monkeypatch.setattr(inference, "inference", built)
    return sweep


def put_together(**more: object) -> Path:
    settings = ExportSettings(**{"sweep": "a", "top": 3, "ensemble": "per_class", "out": "both"} | more)  # type: ignore[arg-type]
    return export(settings, tell=lambda _: None)[0]


def test_each_class_comes_from_its_winner_with_its_threshold(swept: Path) -> None:
    folder = put_together()
    manifest = read_manifest(folder)
    assert manifest["members"] == ["0000_good_nuc", "0001_good_pm"], "the third is the best at nothing"
    assert {name: won["trial"] for name, won in manifest["winners"].items()} == {
        "nuc": "0000_good_nuc",
        "pm": "0001_good_pm",
    }
    model = read_model(folder, torch.device("cpu"))
    em = torch.randint(0, 256, (2, 1, 1, 12, 16), dtype=torch.uint8)
    logits = model.network(em)[:, :, 0]
    for c, seed in enumerate((0, 1)):
        torch.testing.assert_close(logits[:, c], drawn(seed)(em[:, :, 0])[:, c])
    section = yaml.safe_load((folder / "config.yaml").read_text())["thresholds"]["classes"]
    for c, name in enumerate(CLASSES):
        own = section[name]
        assert float(model.cut[c]) == pytest.approx(own["logit"] + own["shift"])
        assert own["trial"] == manifest["winners"][name]["trial"]
    assert set(manifest["sha256"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert "0001_good_pm" in (folder / "README.md").read_text()
    assert "2 networks, 2 classes" in told_of_ensemble(folder, manifest)


def test_it_predicts_a_volume_and_show_tells_what_it_is(swept: Path, tmp_path: Path) -> None:
    folder = put_together()
    np.save(tmp_path / "em.npy", np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8))
    given = PredictSettings(checkpoint=str(folder), volume="em.npy", voxel_nm=[8, 8, 8], out="pred.zarr", device="cpu")
    predict(given)
    assert {path.name for path in (tmp_path / "pred.zarr" / "labels").iterdir() if path.is_dir()} == set(CLASSES)
    found = show(ShowSettings(checkpoint=str(folder)))
    assert found.thresholds.set_index("class")["trial"].to_dict() == {"nuc": "0000_good_nuc", "pm": "0001_good_pm"}
    assert found.parts["part"].tolist() == ["0", "1"]
    text = found.text(100, every_tensor=False)
    assert "on crops that did not choose" in text
    assert checked(as_json("show", found.document()))["thresholds"][0]["class"] == "nuc"


def test_dice_is_of_crops_that_did_not_choose() -> None:
    """Two networks, each right on one crop alone: whichever a crop chooses fails on the other."""
    right, wrong = histograms(0.9, 0.9), histograms(0.1, 0.1)
    one, other = np.stack([right, wrong], axis=1), np.stack([wrong, right], axis=1)  # (2, K, B)
    positive, negative = np.stack([one, other], axis=1)
    halves = np.array([[True, False]])
    measured = float(metrics.dice(*calibration.chosen_counts(positive, negative, halves)).numpy()[0])
    chosen = calibration.dice_at_thresholds(positive.sum(axis=1), negative.sum(axis=1)).max()
    assert measured == pytest.approx(0.1)
    assert chosen == pytest.approx(4 / (4 + 18 + 2 / 9))
    assert len(EDGES) == positive.shape[-1] + 1


def test_the_choice_of_one_network_is_that_of_its_threshold() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.integers(0, 50, (2, 5, 16))
    halves = calibration.split_halves(np.ones(5, bool), np.ones(5, bool))
    alone = calibration.cross_fitted_counts(positive, negative, halves)
    same = calibration.chosen_counts(*(np.stack([side] * 3) for side in (positive, negative)), halves)
    np.testing.assert_array_equal(alone, same)


def test_one_program_takes_the_stride_of_all() -> None:
    a, b = drawn(0), drawn(1)
    b.stride = 3
    assert PerClass([a, b], [0, 1]).stride == 6


def config_of(sweep: Path, change: Callable[[dict], object], number: int = 1) -> None:
    path = sorted((sweep / "trials").iterdir())[number] / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def without_weights(sweep: Path) -> None:
    (sweep / "trials" / "0001_good_pm" / "best.pt").unlink()


def of_one_class(sweep: Path) -> None:
    manifest = json.loads((sweep / "manifest.json").read_text())
    manifest["classes"] = ["nuc"]
    (sweep / "manifest.json").write_text(json.dumps(manifest))


def on_other_crops(sweep: Path) -> None:
    path = sweep / "trials" / "0001_good_pm" / "validation.npz"
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **{**kept, "crops": ["a/crop1", "b/crop9"]})


def without_counts(sweep: Path) -> None:
    (sweep / "trials" / "0001_good_pm" / "validation.npz").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (of_one_class, "has one class, nuc"),
        (without_weights, "0001_good_pm, the best for pm, has no weights to export: its checkpoint is gone"),
        (without_counts, "0001_good_pm cannot be told crop by crop"),
        (on_other_crops, "were not validated on the same crops"),
        (
            lambda s: config_of(s, lambda c: c["data"].update(patch=[1, 48, 48])),
            "differ in data.patch, [1, 64, 64] and",
        ),
        (lambda s: config_of(s, lambda c: c["data"].update(intensity=[10.0, 200.0])), "differ in data.intensity"),
    ],
)
def test_what_makes_no_ensemble_is_refused_in_a_sentence(swept: Path, damage, told) -> None:
    damage(swept)
    with pytest.raises(InputError) as caught:
        put_together()
    assert told in str(caught.value)
    assert not Path("both").exists()


def test_an_export_of_one_network_is_not_replaced_and_an_ensemble_is_no_trial(swept: Path, monkeypatch) -> None:
    from tune_app.exporting import export as export_module

    monkeypatch.setattr(export_module, "write_program", lambda *_: "none here")
    export(ExportSettings(sweep="a", top=1, out="best"), tell=lambda _: None)
    with pytest.raises(Exception, match="is the export of one network"):
        put_together(out="best")
    folder = put_together()
    assert put_together() == folder, "an ensemble is"
    with pytest.raises(InputError, match="is an ensemble of several networks"):
        find_run(str(folder), key="a")
    with pytest.raises(InputError, match="it is an ensemble of several networks"):
        read_exported(folder)
