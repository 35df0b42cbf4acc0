"""Watches the rows of running trials for what makes it useless to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune_app.config import DiagnosisSettings
from tune_app.diagnosis import hopeless
from tune_app.trial import read_history

KEPT = ("epoch", "loss", "weight_growth", "fg_pred/", "fg_true/", "sigmoid/")
"""Beginnings of the figures that a verdict needs."""


class Watch:
    """What is hopeless, by the name of the trial. It remembers the rows of running trials only.

    trials: the folder of the trials, from which the rows before a restart are read.
    """

    def __init__(self, settings: DiagnosisSettings, trials: Path) -> None:
        self._settings, self._trials = settings, trials
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self.verdicts: dict[str, str] = {}
        """{trial: code} of those that were hopeless."""

    def is_hopeless(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether nothing is to be expected of a trial after this row; False where the settings say to go on."""
        if not self._settings.stop_hopeless or "epoch" not in row:
            return False
        rows = self._rows.get(name)
        if rows is None:
            rows = self._rows[name] = self._earlier(name, row["epoch"])
        rows.append({key: value for key, value in row.items() if key.startswith(KEPT)})
        found = hopeless(rows, self._settings)
        if found:
            self.verdicts[name] = found.code
        return found is not None

    def forget(self, name: str) -> None:
        """The trial has ended."""
        self._rows.pop(name, None)

    def _earlier(self, name: str, epoch: int) -> list[dict[str, Any]]:
        if epoch <= 1:
            return []
        return [row for row in read_history(self._trials / name / "history.jsonl") if row["epoch"] < epoch]
