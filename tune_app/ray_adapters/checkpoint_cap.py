"""Keeps a sweep's checkpoints within their cap, so that a disk is never filled.

A finished trial needs only its best epoch; across the sweep the best `max_number` of those are kept, `max_gb` in all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback

from trainables.checkpoint import BEST, LAST, PREVIOUS
from trainables.objective import Key, Objective, Row


class CheckpointKeeper(Callback):
    """Tune callback: at the end of each trial, drop what no later step will read.

    best: what each trial is ranked by (`Objective.key`), by its folder, of those that had ended before.
    """

    def __init__(
        self, max_number: int, max_gb: float, objective: Objective, best: Mapping[Path, Key] | None = None
    ) -> None:
        self._max_number, self._max_bytes = max_number, max_gb * 1e9
        self._objective, self._best = objective, dict(best or {})

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._ended(trial, trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Called when no restart is left. A failed trial is never resumed."""
        self._ended(trial, {})

    def _ended(self, trial: Any, row: Row) -> None:
        folder = Path(trial.config["run"]["dir"])
        self._best[folder] = self._objective.key(self._objective.best_of(row))
        for name in (LAST, PREVIOUS):
            (folder / name).unlink(missing_ok=True)
        self.enforce()

    def enforce(self) -> list[Path]:
        """Remove the best checkpoints of the lowest-ranked ended trials beyond the cap; returns what was removed.

        Trials without a checkpoint are forgotten, so that the thousandth end costs as much as the first.
        """
        kept_bytes = 0
        removed: list[Path] = []
        kept: dict[Path, Key] = {}
        for folder in sorted(self._best, key=self._best.__getitem__, reverse=True):
            path = folder / BEST
            if not path.is_file():
                continue
            size = path.stat().st_size
            if kept and (len(kept) >= self._max_number or kept_bytes + size > self._max_bytes):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(path)
                    continue
            kept[folder] = self._best[folder]
            kept_bytes += size
        self._best = kept
        return removed
