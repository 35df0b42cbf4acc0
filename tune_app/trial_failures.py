"""What Tune takes for the failure of a trial, mended in four places (Ray 2.60).

- A node that is preempted or dies is no fault of its trials: it does not use up resources.max_failures. Ray counts it,
  unless the node announced its end. It learns of an unannounced one from missed health checks, after about 15 s; asked
  before, it says that the actor is unavailable.
- So with the node that is lost while a trial is restored from its checkpoint.
- Tune knows two errors of a trial's task, RayTaskError and RayActorError, and breaks off at any other. A kill by Ray's
  memory monitor is another, and so is a result that was lost on its way. They are failures of that trial.
- A trial whose process fails while `reset_config` hands it over from an ended trial is given up at once, whatever
  max_failures says: Tune handles the end of an actor of a pending trial twice, and finds the trial not running at the
  second, nor at the first where `reset_config` raised. It also holds the trial for being handed over for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

NODE_DIED = "its node has died"
"""In what Ray says of an actor whose node is gone, ray::gcs GcsActorManager."""


@contextlib.contextmanager
def failures_counted_fairly() -> Iterator[None]:
    """Within it, Tune counts as failures of a trial those that are, each once, and tries again up to max_failures."""
    with (
        _replaced(Trial, "_handle_ray_actor_error", _unless_node_lost),
        _replaced(Trial, "_handle_restore_error", _unless_node_lost),
        _replaced(RayActorManager, "_actor_task_failed", _with_known_error),
        _replaced(TuneController, "_actor_failed", _after_failed_reset_of_actor),
        _replaced(TuneController, "_trial_task_failure", _after_failed_reset),
    ):
        yield


def as_actor_error(error: Exception) -> Exception:
    """The error as one that Tune knows, with the same words; one that is none of Ray's stays as it is."""
    if not isinstance(error, RayError) or isinstance(error, RayActorError | RayTaskError):
        return error
    return RayActorError(error_msg=f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _replaced(owner: type, name: str, replacement: Callable[[Any], Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _unless_node_lost(count: Any) -> Any:
    def counted(trial: Trial, error: Exception) -> None:
        lost = isinstance(error, RayActorError) and (error.preempted or NODE_DIED in str(error))
        if not lost and not isinstance(error, ActorUnavailableError):
            count(trial, error)

    return counted


def _with_known_error(fail: Any) -> Any:
    def failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        fail(manager, tracked_actor_task, as_actor_error(exception))

    return failed


def _after_failed_reset_of_actor(fail: Any) -> Any:
    def failed(controller: TuneController, tracked_actor: Any, exception: Exception) -> None:
        # Of a running trial the failure is handled as that of its task alone, which Ray tells next.
        _end_reset(controller, controller._actor_to_trial[tracked_actor])
        fail(controller, tracked_actor, exception)

    return failed


def _after_failed_reset(fail: Any) -> Any:
    def failed(controller: TuneController, trial: Trial, exception: Exception) -> None:
        _end_reset(controller, trial)
        fail(controller, trial, exception)

    return failed


def _end_reset(controller: TuneController, trial: Trial) -> None:
    """Take a trial that was being handed over for one that runs, as Ray does where that succeeds."""
    if trial in controller._resetting_trials:
        controller._resetting_trials.remove(trial)
        controller._unstage_trial_with_resources(trial)
        controller._set_trial_status(trial, Trial.RUNNING)
