"""Watches the rows of running trials for what makes it useless to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune_app.results.diagnosis import Course
from tune_app.results.trial import read_history
from tune_app.settings.schema import DiagnosisSettings


class Watch:
    """What is hopeless, by the name of the trial. It remembers the course of running trials only.

    trials: the folder of the trials, from which the rows before a restart are read.
    """

    def __init__(self, settings: DiagnosisSettings, trials: Path) -> None:
        self._settings, self._trials = settings, trials
        self._courses: dict[str, Course] = {}
        self.verdicts: dict[str, str] = {}
        """{trial: code} of those that were hopeless."""

    def is_hopeless(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether nothing is to be expected of a trial after this row; False where the settings say to go on."""
        if not self._settings.stop_hopeless or "epoch" not in row:
            return False
        if name not in self._courses:
            self._courses[name] = self._course_before(name, row["epoch"])
        found = next((one for one in self._courses[name].take(row) if one.hopeless), None)
        if found:
            self.verdicts[name] = found.code
        return found is not None

    def forget(self, name: str) -> None:
        """The trial has ended."""
        self._courses.pop(name, None)

    def _course_before(self, name: str, epoch: int) -> Course:
        course = Course(self._settings)
        earlier = read_history(self._trials / name / "history.jsonl") if epoch > 1 else ()
        for row in earlier:
            if row["epoch"] < epoch:
                course.take(row)
        return course
