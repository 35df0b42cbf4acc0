"""Keeps a sweep's checkpoints within their cap, so that a disk is never filled.

A finished trial needs only its best epoch; across the sweep the best `max_number` of those are kept, `max_gb` in all.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from ray.tune import Callback

RESUME_FILES = ("last.pt", "previous.pt")
BEST_FILE = "best.pt"


class CheckpointKeeper(Callback):
    """Tune callback: at the end of each trial, drop what no later step will read.

    scores: best value by trial folder, of the trials that ended before (a sweep that goes on).
    """

    def __init__(self, max_number: int, max_gb: float, metric: str, scores: dict[Path, float] | None = None) -> None:
        self._max_number, self._max_bytes = max_number, max_gb * 1e9
        self._scores = dict(scores or {})
        self._metric = metric

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._ended(trial, (trial.last_result or {}).get(f"best_{self._metric}", math.nan))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Called when no restart is left. A failed trial is never taken up again."""
        self._ended(trial, math.nan)

    def _ended(self, trial: Any, best: object) -> None:
        folder = Path(trial.config["run"]["dir"])
        self._scores[folder] = best if isinstance(best, float) and math.isfinite(best) else -math.inf
        for name in RESUME_FILES:
            (folder / name).unlink(missing_ok=True)
        self.enforce()

    def enforce(self) -> list[Path]:
        """Remove the best checkpoints of the lowest-ranked ended trials beyond the cap; returns what was removed.

        Trials without a checkpoint are forgotten, so that the thousandth end costs as much as the first.
        """
        kept_bytes = 0
        removed: list[Path] = []
        kept: dict[Path, float] = {}
        for folder in sorted(self._scores, key=lambda folder: -self._scores[folder]):
            path = folder / BEST_FILE
            if not path.is_file():
                continue
            size = path.stat().st_size
            if kept and (len(kept) >= self._max_number or kept_bytes + size > self._max_bytes) and _removed(path):
                removed.append(path)
            else:
                kept[folder] = self._scores[folder]
                kept_bytes += size
        self._scores = kept
        return removed


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False
