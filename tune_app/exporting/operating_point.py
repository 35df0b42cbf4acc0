"""Where an exported model is to be cut: one threshold per class, chosen on all validation crops.

A loss that shifts logits at inference has been validated with its shift. model.pt2 holds the shift, so its thresholds
are as chosen; for the raw output of the weights alone, the shift is taken off the thresholds instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.calibration import CALIBRATED, sigmoid
from trainables.settings import TaskSettings, from_mapping
from trainables.tasks import get_task
from tune_app.results.trial import Trial

APPLY = "a class is predicted where the model's logit > logit, which is where sigmoid(logit of the model) > probability"
LARGEST = "the class with the largest logit is predicted; logits count against each other, no threshold is applied"
UNKNOWN_SHIFT = "add the logit shift of apply_at=inference to the model's logits first; the checkpoint does not hold it"


def operating_point(trial: Trial, classes: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
    """The section `thresholds` of an exported config.yaml, plain values.

    state: the best.pt of the trial, {} where it is gone. dice is at 0.5, calibrated_dice cross-fitted: the threshold
    beside it, chosen on all crops, is to do about as well on new ones. A class without a calibrated Dice keeps 0.5.
    """
    calibration, shift = trial.calibration, inference_shift(trial, classes, state)
    task = from_mapping(TaskSettings, trial.config.get("task") or {}, "task")
    apply = LARGEST if get_task(task.name, task.options).exclusive else APPLY
    return {
        "apply": apply if shift is not None else f"{apply}; {UNKNOWN_SHIFT}",
        "epoch": trial.best["epoch"],
        trial.metric: trial.score(trial.metric),
        CALIBRATED: calibration.calibrated_mean,
        "chosen_on": calibration.problem or "all validation crops; calibrated_dice: on one half, scored on the other",
        "classes": {name: of_class(trial, name, (shift or {}).get(name, 0.0)) for name in classes},
    }


def metadata(section: Mapping[str, Any]) -> dict[str, str]:
    """What goes with the weights: {"logit_thresholds": {class: logit} as JSON}; {} where a shift is not known."""
    if UNKNOWN_SHIFT in section["apply"]:
        return {}
    return {"logit_thresholds": json.dumps({name: found["logit"] for name, found in section["classes"].items()})}


def inference_shift(trial: Trial, classes: Sequence[str], state: Mapping[str, Any]) -> dict[str, float] | None:
    """What validation added to the logits of each class; None where it cannot be known."""
    if "inference_shift" in state:
        return dict(zip(classes, map(float, state["inference_shift"])))
    shifts = trial.loss.get("params", {}).get("apply_at") == "inference"
    return None if shifts else dict.fromkeys(classes, 0.0)


def inherited_point(
    source: Mapping[str, Any], classes: Sequence[str], shift: Mapping[str, float] | None, epoch: int
) -> dict[str, Any]:
    """The section of a network that was trained on the validation crops, too.

    Nothing is left to choose thresholds on, so they are those that were chosen without these crops. source: the section
    of the export that it was trained from.
    """
    found = source.get("classes") or {}
    before = {name: found.get(name) or {"logit": 0.0} for name in classes}
    return {
        "apply": APPLY if shift is not None else f"{APPLY}; {UNKNOWN_SHIFT}",
        "epoch": epoch,
        "validated": False,
        "chosen_on": "validation crops, with the weights that were trained without them",
        "classes": {
            name: _cut(own["logit"] + own.get("shift", 0.0), (shift or {}).get(name, 0.0))
            for name, own in before.items()
        },
    }


def cut_of(section: Mapping[str, Any]) -> list[float]:
    """The thresholds for logits as validated, in class order."""
    return [found["logit"] + found["shift"] for found in section["classes"].values()]


def _cut(logit: float, shift: float) -> dict[str, float]:
    """A threshold for logits as validated, as one for the raw output, and the shift between the two."""
    return {"logit": logit - shift, "probability": sigmoid(logit - shift), "shift": shift}


def of_class(trial: Trial, name: str, shift: float) -> dict[str, Any]:
    """One class: its threshold, what it is worth, and why it is 0.5 where it is."""
    calibration = trial.calibration
    place = calibration.classes.index(name) if name in calibration.classes else None
    own = math.nan if place is None else calibration.logits[place]
    found = _cut(own if math.isfinite(own) else 0.0, shift) | {"dice": trial.score(f"dice/{name}")}
    found["calibrated_dice"] = trial.score(f"calibrated/{name}")
    why = calibration.problem if place is None else calibration.reasons[place]
    return found | ({"kept_at_half": why} if why else {})
