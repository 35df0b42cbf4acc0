"""A node that is preempted or dies is no fault of its trials: it does not use up resources.max_failures.

Ray counts a lost node as a failure of each trial on it, unless the node announced its end. It learns of an unannounced
one from missed health checks, after about 15 s; asked before, it says that the actor is unavailable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial

NODE_DIED = "its node has died"
"""In what Ray says of an actor whose node is gone, ray::gcs GcsActorManager."""


@contextlib.contextmanager
def lost_nodes_are_no_failures() -> Iterator[None]:
    """Within it, Ray restarts a trial after the loss of its node as often as that happens."""
    counted = Trial._handle_ray_actor_error

    def count(trial: Trial, error: RayActorError) -> None:
        if not (isinstance(error, ActorUnavailableError) or NODE_DIED in str(error)):
            counted(trial, error)

    Trial._handle_ray_actor_error = count
    try:
        yield
    finally:
        Trial._handle_ray_actor_error = counted
