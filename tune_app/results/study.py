"""Read a sweep's Optuna study without ever writing to it.

Optuna's own file backend creates the journal where it is absent, and refuses one that holds a damaged line before its
end. A reader must do neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from tune_app.results.manifest import of_kind

JOURNAL = "study.journal"
ATTRIBUTE_KINDS = {
    "name": str,
    "label": str,
    "family": str,
    "preset": (str, NoneType),
    "loss": dict,
    "seed": (int, NoneType),
    "sections": dict,
    "signature": str,
    "baseline": bool,
    "planned": bool,
    "reason": str,
}
"""Of what the searcher tells of a trial; see `of_kind`."""


class ReadOnlyJournal(BaseJournalBackend):
    """The records of a journal up to the first line that is not complete; `damaged` tells that lines follow it."""

    def __init__(self, path: Path) -> None:
        self.records: list[dict[str, Any]] = []
        self.damaged = False
        for line in path.read_bytes().splitlines(keepends=True):
            if not self._append(line):
                # The beginning of a last line is a write in progress, not damage.
                self.damaged = line.endswith(b"\n") or not line.startswith(b"{")
                break

    def _append(self, line: bytes) -> bool:
        try:
            record = json.loads(line)
        except ValueError:
            return False
        if not (isinstance(record, dict) and line.endswith(b"\n")):
            return False
        self.records.append(record)
        return True

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.records[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("a results reader never writes to the study")


def read_study(folder: Path) -> tuple[list[FrozenTrial], bool]:
    """(trials of the last study in the journal, whether the journal could be read to its end).

    It cannot be read beyond a trial whose values are of another kind than the searcher writes. A journal that is
    absent, or empty because the sweep has just begun, holds no trials and is intact.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return [], True
    try:
        journal = ReadOnlyJournal(path)
        storage = JournalStorage(journal)
        studies = storage.get_all_studies()
        trials = storage.get_all_trials(studies[-1]._study_id) if studies else []
        sound = list(takewhile(_is_sound, trials))
    except Exception:  # Optuna's replay raises anything from KeyError to RuntimeError on records it cannot follow.
        return [], False
    return sound, not journal.damaged and len(sound) == len(trials)


def _is_sound(trial: FrozenTrial) -> bool:
    told, numbers = trial.user_attrs, [*(trial.values or ()), *trial.intermediate_values.values()]
    return of_kind(told, ATTRIBUTE_KINDS) == told and all(isinstance(one, int | float) for one in numbers)
