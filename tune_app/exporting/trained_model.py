"""The network of an export, ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from trainables.inference import load_program
from trainables.settings import DataSettings, TaskSettings, from_mapping
from trainables.tasks import Task, get_task
from tune_app.errors import InputError
from tune_app.exporting.model_file import ABOUT, PROGRAM
from tune_app.results.manifest import file_sha256, read_manifest
from tune_app.results.tables import counted
from tune_app.results.trial import read_json


@dataclass(frozen=True, kw_only=True)
class Model:
    """An exported network, ready to run on uint8 (N, K, D, H, W), where D = 1 is 2D: logits (N, C, D, H, W)."""

    network: Callable[[torch.Tensor], torch.Tensor]
    classes: tuple[str, ...]
    cut: torch.Tensor
    """(C, 1, 1, 1) logits above which a class is predicted."""
    window: tuple[int, int, int]
    """z y x, voxels."""
    channels: int
    """Of its input."""
    per_image: bool
    """Whether it gives one label to a volume: logits (N, C, 1, 1, 1)."""
    data: DataSettings
    """Of its training."""
    task: Task
    sha256: str


def read_model(folder: Path, device: torch.device) -> Model:
    """The network of an export. Raises InputError where the folder is none, or holds no program."""
    make_one = "Make one: python -m tune_app.export sweep=latest top=1 out=best, and give checkpoint=best/1"
    manifest = read_manifest(folder)
    if not manifest.get("sha256"):
        if inside := sum("sha256" in read_manifest(path) for path in folder.glob("[1-9]*")):
            raise InputError(f"checkpoint={folder}: holds {counted(inside, 'export')}: give checkpoint={folder / '1'}")
        raise InputError(f"checkpoint={folder}: is not the folder of an export. {make_one}")
    digest = manifest["sha256"].get(PROGRAM)
    if digest is None or not (folder / PROGRAM).is_file():
        why = manifest.get("program_missing") or "it was made by an earlier version, or the file was removed"
        raise InputError(f"checkpoint={folder}: holds no {PROGRAM}: {why}. {make_one}")
    if file_sha256(folder / PROGRAM) != digest or file_sha256(folder / ABOUT) != manifest["sha256"].get(ABOUT):
        raise InputError(f"checkpoint={folder}: {PROGRAM} or {ABOUT} is damaged or was changed since. {make_one}")
    about = read_json(folder / ABOUT)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    task = from_mapping(TaskSettings, config.get("task", {}), "task")
    program, flat = load_program(folder / PROGRAM, device), about.get("spatial_dims", 2) == 2
    least = about.get("least_side", 2 * about["stride"])  # programs of earlier versions take no smaller side
    depth, height, width = (max(side, least) for side in about["patch"])
    return Model(
        network=(lambda images: program(images[:, :, 0])[:, :, None]) if flat else program,
        classes=tuple(about["classes"]),
        cut=torch.tensor(about["logit"], device=device).view(-1, 1, 1, 1),
        window=(1 if flat else depth, height, width),
        channels=about.get("in_channels", 1),
        per_image=bool(about.get("per_image")),
        data=from_mapping(DataSettings, config["data"], "data"),
        task=get_task(task.name, task.options),
        sha256=digest,
    )
