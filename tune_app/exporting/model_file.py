"""The weights of a trial's best epoch: as model.safetensors, and as model.pt2, a program that works alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_app.exporting.operating_point import cut_of
from tune_app.results.sweep import Sweep
from tune_app.results.trial import Trial

if TYPE_CHECKING:
    from trainables.inference import Inference, PerClass
    from trainables.settings import DataSettings

WEIGHTS, PROGRAM, ABOUT = "model.safetensors", "model.pt2", "model.json"


def best_state(trial: Trial) -> tuple[dict[str, Any], str]:
    """The weights that the trial has kept of its best epoch or of `as_of`, and ""; or {} and why there are none."""
    from trainables import checkpoint
    from trainables.errors import CheckpointError

    path = trial.folder / (checkpoint.KEPT.format(trial.as_of) if trial.as_of else checkpoint.BEST)
    if not path.is_file():
        return {}, "its checkpoint is gone (checkpoints.max_number and checkpoints.max_gb cap what a sweep keeps)"
    try:
        state = checkpoint.read(path)
    except CheckpointError as error:
        return {}, str(error)
    return (state, "") if tensors_of(state) else ({}, f"{path} holds no weights")


def write_model(sweep: Sweep, trial: Trial, state: dict[str, Any], path: Path, thresholds: dict[str, str]) -> None:
    """Write the weights of a best.pt; the metadata are classes, epoch, metric, sweep, trial, thresholds, as strings."""
    from safetensors.torch import save

    epoch = int(state.get("epoch", trial.best["epoch"]))
    row = next((row for row in trial.history if row["epoch"] == epoch), {})
    score = str(row.get(sweep.metric)) if sweep.validated else "not validated"
    about = {"classes": json.dumps(sweep.classes), "epoch": str(epoch), sweep.metric: score}
    about |= {"sweep": sweep.name, "trial": trial.name, "format": "pt", **thresholds}
    path.write_bytes(save(tensors_of(state), about))  # Its save_file would make a file that only its owner may read.


def write_program(
    trial: Trial, state: dict[str, Any], thresholds: Mapping[str, Any], shift: Mapping[str, float] | None, folder: Path
) -> str:
    """Write model.pt2, and what it takes and gives as model.json. Returns "", or why there is none.

    thresholds: the section of config.yaml. shift: what validation added to the logits of each class; None where that
    is not known.
    """
    from trainables.errors import TrainablesError
    from trainables.inference import inference
    from trainables.settings import trial_settings

    if shift is None:
        return "its checkpoint does not hold the logit shift of apply_at=inference"
    try:
        settings = trial_settings(trial.config)
        model = inference(settings, tensors_of(state), list(shift.values()))
    except TrainablesError as error:
        return str(error)
    write_loaded(model, settings.data, list(shift), cut_of(thresholds), folder)
    return ""


def write_loaded(
    model: Inference | PerClass, data: DataSettings, classes: Sequence[str], cut: Sequence[float], folder: Path
) -> None:
    """model.pt2 and model.json of a network; cut: the logit of each class above which it is predicted."""
    from trainables.inference import save_program

    save_program(model, folder / PROGRAM)
    about = {
        "classes": list(classes),
        "logit": list(cut),
        "voxel_nm": data.voxel_nm,
        "patch": data.patch,
        "stride": model.stride,
        "least_side": model.stride,
        "fixed_size": model.fixed_size,
        "in_channels": model.in_channels,
        "spatial_dims": model.spatial_dims,
        "per_image": model.per_image,
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def tensors_of(state: dict[str, Any]) -> dict[str, Any]:
    """The weights in a best.pt, each with storage of its own and contiguous, as safetensors wants them."""
    sections = [state[key] for key in ("model", "state_dict", "weights") if isinstance(state.get(key), dict)]
    weights = sections[0] if sections else state
    named = {name.removeprefix("_orig_mod."): value for name, value in weights.items() if hasattr(value, "contiguous")}
    return {name: value.detach().contiguous().clone() for name, value in named.items()}
