"""The folder of one trial: what is written there after every epoch, and how it is resumed.

config.json      the trial's config
history.jsonl    one flat row per epoch, see `json_line`
count_updates.jsonl    a line per update of the class counts: step, and share, logit adjustment and weight per class
validation.npz   TP/FP/FN per epoch, validation crop and class, and the logit histograms of the best epoch
prediction.npz   a few validation patches, their truth, and what the best epoch so far predicts
step.json        {"step", "steps"}: how far the first epoch is, while it lasts
last.pt previous.pt best.pt      checkpoints; last.pt also holds history and validation, so it alone is enough
epoch_0020.pt …  as best.pt, of every k-th epoch, where trainer.keep_checkpoint_every says so
trial.log        one line per epoch, setup, resume and fallback messages
result.json      not ours: Ray's log of the reported rows, read to report every row exactly once
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainables import checkpoint
from trainables.files import replacing, write_text

HISTORY, VALIDATION, CONFIG, LOG, RESULT = "history.jsonl", "validation.npz", "config.json", "trial.log", "result.json"
COUNT_UPDATES = "count_updates.jsonl"
STEP, NOTE_EVERY_S = "step.json", 2.0
BEFORE_RESTART = "history-before-restart.jsonl"

Row = dict[str, Any]


class TrialFolder:
    """Reads and writes the files of one trial. Every rewrite is atomic; appending writes one whole line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.history: list[Row] = []
        self._log: logging.Handler | None = None
        self._noted = 0.0

    def start(self, history: Iterable[Row], validation: Mapping[str, np.ndarray] | None) -> None:
        """Make history.jsonl and validation.npz say what a checkpoint says, or nothing for a fresh start."""
        self.history = [dict(row) for row in history]
        (self.path / STEP).unlink(missing_ok=True)
        if not self.history and (self.path / HISTORY).is_file():  # its checkpoints are gone: lose nothing recorded
            os.replace(self.path / HISTORY, self.path / BEFORE_RESTART)
        text = "".join(json_line(row) for row in self.history)
        write_text(self.path / HISTORY, text)
        if (self.path / COUNT_UPDATES).is_file():  # those of later epochs come again
            last = self.history[-1]["epoch"] if self.history else 0
            lines = (self.path / COUNT_UPDATES).read_text(errors="replace").splitlines()
            kept = [f"{line}\n" for line in lines if is_intact(line) and _epoch(line) <= last]
            write_text(self.path / COUNT_UPDATES, "".join(kept))
        if validation is None:
            (self.path / VALIDATION).unlink(missing_ok=True)
        else:
            self.write_validation(validation)

    def note_step(self, step: int, steps: int) -> None:
        """Note, every few seconds, how far the first epoch is, of which no row tells."""
        if time.monotonic() - self._noted >= NOTE_EVERY_S:
            self._noted = time.monotonic()
            with contextlib.suppress(OSError):  # not worth a trial
                write_text(self.path / STEP, json.dumps({"step": step, "steps": steps}))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's row to the history."""
        self.history.append(dict(row))
        (self.path / STEP).unlink(missing_ok=True)
        with (self.path / HISTORY).open("a") as file:
            file.write(json_line(row))

    def append_count_updates(self, updates: Iterable[Mapping[str, Any]]) -> None:
        """Add those of an epoch, as `Engine.count_updates` has them; before its row, so that this finds them there."""
        with (self.path / COUNT_UPDATES).open("a") as file:
            file.writelines(json_line({name: _short(value) for name, value in one.items()}) for one in updates)

    def write_validation(self, validation: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of `Engine.validation` to validation.npz."""
        self.write_arrays(VALIDATION, validation)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays to the .npz file `name`."""
        with replacing(self.path / name) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the trial's config to config.json."""
        write_text(self.path / CONFIG, (json.dumps(config, indent=1, default=str) + "\n"))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write last.pt with the history in it; what was last.pt becomes previous.pt."""
        checkpoint.rotate(self.path, {**state, "history": self.history})

    def save_weights(self, name: str, state: Mapping[str, Any]) -> None:
        """Write best.pt or that of an epoch that is kept: weights and epoch."""
        checkpoint.write(self.path / name, state)

    def last_reported(self) -> int:
        """The last epoch in Ray's result.json; 0 without one. A line cut short by a crash does not count."""
        try:
            lines = (self.path / RESULT).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return 0
        return max((_epoch(line) for line in lines), default=0)

    def open_log(self) -> None:
        """Send the messages of this package to trial.log until `close_log`."""
        self.close_log()
        self._log = logging.FileHandler(self.path / LOG)
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root = logging.getLogger("trainables")
        root.addHandler(self._log)
        if root.getEffectiveLevel() > logging.INFO:
            root.setLevel(logging.INFO)

    def close_log(self) -> None:
        """Let go of trial.log."""
        if self._log is not None:
            logging.getLogger("trainables").removeHandler(self._log)
            self._log.close()
            self._log = None


def first_epoch_share(folder: str | Path) -> float:
    """How much of its first epoch the trial in `folder` has behind it, in [0, 1]; 0 where nothing tells."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
        noted = json.loads((Path(folder) / STEP).read_text())
        return min(1.0, max(0.0, float(noted["step"] / noted["steps"])))
    return 0.0


def read_count_updates(folder: Path, epoch: int) -> list[dict[str, Any]]:
    """Those of one epoch; none where the file is missing, and no line that is damaged."""
    try:
        lines = (folder / COUNT_UPDATES).read_text(errors="replace").splitlines()
    except OSError:
        return []
    begin = f'{{"epoch": {epoch}, '  # most lines are of other epochs, and need not be parsed
    return [json.loads(line) for line in lines if line.startswith(begin) and is_intact(line)]


def _short(value: Any) -> Any:
    """Six digits of every float; None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _epoch(line: str) -> int:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        return int(json.loads(line).get("epoch") or 0)
    return 0


CHECKSUM = "crc32"
"""The last key of a line: CRC-32 of the same line without it, eight hex digits."""


_SEAL = f', "{CHECKSUM}": "'


def json_line(row: Mapping[str, Any]) -> str:
    """A line with its checksum. NaN and infinities, which JSON does not know, become null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return _sealed(json.dumps(plain, allow_nan=False)) + "\n"


def is_intact(line: str) -> bool | None:
    """Whether a line, its newline cut off, is as it was written; None where it has no checksum."""
    content, found, _ = line.rpartition(_SEAL)
    return line == _sealed(content + "}") if found else None


def _sealed(text: str) -> str:
    return f'{text[:-1]}{_SEAL}{zlib.crc32(text.encode(errors="replace")):08x}"}}'
