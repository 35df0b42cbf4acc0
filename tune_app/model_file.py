"""The weights of a trial's best epoch, as model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tune_app.results import Sweep
from tune_app.trial import Trial


def best_state(trial: Trial) -> tuple[dict[str, Any], str]:
    """The trial's best.pt and "", or {} and why it cannot be had."""
    from trainables import checkpoint
    from trainables.errors import CheckpointError

    path = trial.folder / checkpoint.BEST
    if not path.is_file():
        return {}, "its checkpoint is gone (checkpoints.max_number and checkpoints.max_gb cap what a sweep keeps)"
    try:
        state = checkpoint.read(path)
    except CheckpointError as error:
        return {}, str(error)
    return (state, "") if _tensors(state) else ({}, f"{path} holds no weights")


def write_model(sweep: Sweep, trial: Trial, state: dict[str, Any], path: Path, thresholds: dict[str, str]) -> None:
    """Write the weights of a best.pt; the metadata are classes, epoch, metric, sweep, trial, thresholds, as strings."""
    from safetensors.torch import save

    epoch = int(state.get("epoch", trial.best["epoch"]))
    row = next((row for row in trial.history if row["epoch"] == epoch), {})
    about = {"classes": json.dumps(sweep.classes), "epoch": str(epoch), sweep.metric: str(row.get(sweep.metric))}
    about |= {"sweep": sweep.name, "trial": trial.name, "format": "pt", **thresholds}
    path.write_bytes(save(_tensors(state), about))  # Its save_file would make a file that only its owner may read.


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The weights in a best.pt, each with storage of its own and contiguous, as safetensors wants them."""
    sections = [state[key] for key in ("model", "state_dict", "weights") if isinstance(state.get(key), dict)]
    weights = sections[0] if sections else state
    named = {name.removeprefix("_orig_mod."): value for name, value in weights.items() if hasattr(value, "contiguous")}
    return {name: value.detach().contiguous().clone() for name, value in named.items()}
