"""A trial that Ray's memory monitor kills is a failure of that trial, not the end of the search.

Tune knows two errors of a trial's task, RayTaskError and RayActorError, and breaks off at any other. An out-of-memory
kill is another (Ray 2.60), and so is a result that was lost on its way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError


@contextlib.contextmanager
def memory_kills_are_failures() -> Iterator[None]:
    """Within it, any of Ray's errors ends the actor of its trial, which Tune starts again up to max_failures times."""
    known = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        known(manager, tracked_actor_task, as_actor_error(exception))

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = known


def as_actor_error(error: Exception) -> Exception:
    """The error as one that Tune knows, with the same words; one that is none of Ray's stays as it is."""
    if not isinstance(error, RayError) or isinstance(error, RayActorError | RayTaskError):
        return error
    return RayActorError(error_msg=f"{type(error).__name__}: {error}")
