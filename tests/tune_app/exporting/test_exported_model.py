"""An export works alone: its program, run as docs/export.md says, gives the masks of the evaluation that scored it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweep_folder import WrittenTrial, write_sweep

from trainables.engine import Engine
from trainables.settings import trial_settings
from tune_app.exporting.export import USE, ExportSettings, export, use_of
from tune_app.results.sweep import Sweep

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "tests" / "trainables"))  # tiny_trial
from tiny_trial import CLASSES, tiny_dataset, trial_config  # noqa: E402

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tune_app", "search_spaces", "trainables", "cluster", "ray", "hydra", "optuna"):
            raise ModuleNotFoundError(name + " is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""
POST_HOC: dict[str, Any] = {"name": "balanced_softmax", "params": {"tau": 2.0, "apply_at": "inference"}}


@dataclass
class Exported:
    folder: Path
    engine: Engine


def written(dice: Sequence[Sequence[float]]) -> WrittenTrial:
    return WrittenTrial(label="tiny", dice=dice, family="balanced_softmax", loss=POST_HOC["params"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A trial of an epoch, whose loss shifts the logits at inference, exported."""
    place = tmp_path_factory.mktemp("exported")
    config = trial_config(loss=POST_HOC)
    settings = trial_settings(config)
    engine = Engine(settings, config["loss"], 0, dataset=tiny_dataset(settings.data))
    row = engine.run_epoch()
    dice = [[row[f"dice/{c}"] for c in CLASSES]]
    sweep = write_sweep(place / "a", [written(dice)], classes=CLASSES)
    trial = sweep / "trials" / "0000_tiny"
    (trial / "config.json").write_text(json.dumps(config))
    np.savez(trial / "validation.npz", **engine.validation)
    torch.save(
        {
            "model": engine.model.state_dict(),
            "epoch": 1,
            "classes": list(CLASSES),
            "inference_shift": engine.loss.inference_shift.tolist(),
        },
        trial / "best.pt",
    )
    notices: list[str] = []
    [folder] = export(ExportSettings(sweep=str(sweep), out=str(place / "best"), top=1), tell=notices.append)
    assert notices == []
    return Exported(folder, engine)


def shown_code(text: str) -> str:
    """The lines of Python in a page."""
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return str(code)


def test_the_lines_of_the_docs_give_the_masks_of_the_evaluator(exported: Exported) -> None:
    """In a process that has PyTorch and nothing of ours; on a batch and sides that it was not traced with."""
    engine = exported.engine
    batches = [engine.validator.batches[number] for number in range(3)]
    em, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("em", "labels"))
    np.save(exported.folder / "em.npy", em[:, 0, 0].numpy())
    code = shown_code((ROOT / "docs" / "export.md").read_text())
    code = f'{BLOCKED}{code}\nnp.savez("found.npz", logits=logits, masks=masks)'
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=exported.folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = np.load(exported.folder / "found.npz")
    with torch.no_grad():
        engine.model.eval()
        logits = engine.evaluation_step(em, labels)[1].numpy()
    assert engine.loss.inference_shift.abs().max() > 0.1, "the shift has to matter"
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    [trial] = Sweep(exported.folder.parents[1] / "a").trials
    cut = np.array([z if np.isfinite(z) else 0.0 for z in trial.calibration.logits])[:, None, None]
    assert np.isfinite(trial.calibration.logits).any()
    np.testing.assert_array_equal(found["masks"], found["logits"] > cut.astype(np.float32))


def test_the_block_of_our_packages_holds() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", f"{BLOCKED}import trainables"], capture_output=True, text=True)
    assert "trainables is blocked" in done.stderr


def test_the_docs_and_the_readme_of_an_export_show_the_same_lines(exported: Exported) -> None:
    readme = (exported.folder / "README.md").read_text()
    assert shown_code(readme) == shown_code(USE) == shown_code((ROOT / "docs" / "export.md").read_text())
    assert len(shown_code(USE).split("\n\n", 1)[1].splitlines()) + 3 <= 10, "ten lines"
    assert "0000_tiny" in readme


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_lines_fit_the_network(spatial_dims: int, channels: int) -> None:
    """Masks are (slices, classes, height, width), whatever the network takes."""

    def network(images: torch.Tensor) -> torch.Tensor:
        assert images.dim() == 2 + spatial_dims
        assert images.shape[1] == channels
        return torch.zeros(len(images), 3, *images.shape[2:])

    code = shown_code(use_of({"spatial_dims": spatial_dims, "in_channels": channels}))
    called = re.search(r"logits = (network.*?)  #", code)
    assert called
    assert ("(channels, slices," in code) is (channels == 2)
    em = torch.zeros(*((2,) if channels == 2 else ()), 5, 8, 16)
    assert eval(called[1], {"network": network, "em": em}).shape == (5, 3, 8, 16)


def test_the_program_says_what_it_takes(exported: Exported) -> None:
    about: dict[str, Any] = json.loads((exported.folder / "model.json").read_text())
    assert about["classes"] == list(CLASSES)
    assert (about["voxel_nm"], about["patch"], about["stride"]) == ([8.0, 8.0, 8.0], [1, 16, 16], 4)
    assert len(about["logit"]) == 3
    assert (about["in_channels"], about["spatial_dims"]) == (1, 2)


@pytest.mark.parametrize(
    ("damage", "message"), [("width", "its weights are not those of its model"), ("shift", "does not hold the logit")]
)
def test_without_a_program_the_rest_is_exported(exported: Exported, tmp_path: Path, damage: str, message: str) -> None:
    sweep = write_sweep(tmp_path / "a", [written([(0.5, 0.5, 0.5)])], classes=CLASSES)
    trial = sweep / "trials" / "0000_tiny"
    config = trial_config(loss=POST_HOC, **({"model": {"width": 8}} if damage == "width" else {}))
    (trial / "config.json").write_text(json.dumps(config))
    shift = {"inference_shift": [0.0] * 3} if damage == "width" else {}
    torch.save({"model": exported.engine.model.state_dict(), "epoch": 1, **shift}, trial / "best.pt")
    notices: list[str] = []
    [folder] = export(ExportSettings(sweep=str(sweep), out=str(tmp_path / "best"), top=1), tell=notices.append)
    assert [message in notice for notice in notices] == [True]
    assert message in json.loads((folder / "manifest.json").read_text())["program_missing"]
    assert message in (folder / "README.md").read_text()
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "model.pt2").exists()
