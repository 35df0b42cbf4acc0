"""Tasks: what is learnt. One file per task; the file's name is `task.name` on the command line.

A task file defines `TASK`, a `Task`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from trainables.settings import require_choice


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task is to everybody else."""

    metric: str
    """The figure of a row that says how good an epoch was, unless an objective says another."""
    mode: str = "max"
    """max or min of it."""


def task_names() -> tuple[str, ...]:
    """Names of all tasks: the files of this package, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def get_task(name: str) -> Task:
    """The task of this name. Raises SettingsError with the choices."""
    require_choice("task.name", name, task_names())
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
