"""Checkpoints on disk: written atomically, the one before kept, read without running code from the file.

`last.pt` is the newest state, `previous.pt` the one before it. A crash leaves either both or, between two renames,
`previous.pt` alone; never half a file under either name. `best.pt` holds the weights of the best epoch alone, and
`epoch_0020.pt` those of epoch 20, where trainer.keep_checkpoint_every says so.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from trainables.errors import CheckpointError
from trainables.files import replacing

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
KEPT = "epoch_{:04d}.pt"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint as read: the state, the file it came from, and what to tell the user ("" when all is well)."""

    state: dict[str, Any]
    path: Path
    warning: str


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, dicts, lists) to `path`, wholly or not at all."""
    for left in path.parent.glob(f".{path.name}.*.partial"):  # of a killed process; they are large
        left.unlink()
    with replacing(path, durable=True) as file:
        torch.save(dict(state), file)


def rotate(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state` as last.pt; what was last.pt becomes previous.pt."""
    newest = folder / (LAST + ".new")
    write(newest, state)
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(newest, folder / LAST)


def read(path: Path) -> dict[str, Any]:
    """The state in `path`, tensors on the CPU. CheckpointError where it is missing, cut short, or not one of ours."""
    try:
        with ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # torch.load itself does not compare checksums
                raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be read, it may have been cut short ({reason})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no checkpoint but a {type(state).__name__}")
    return state


def read_latest(folder: Path) -> Loaded | None:
    """The newest usable checkpoint in `folder`: last.pt, else previous.pt with a warning naming both; None without any.

    Raises CheckpointError when files are there and none of them can be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists() and not previous.exists():
        return None
    try:
        return Loaded(state=read(last), path=last, warning="")
    except CheckpointError as problem:
        try:
            state = read(previous)
        except CheckpointError as second:
            raise CheckpointError(f"no usable checkpoint: {problem}; {second}") from second
        warning = f"{problem}; going on from the one before, {previous}"
        return Loaded(state=state, path=previous, warning=warning)
