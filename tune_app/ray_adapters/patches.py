"""Every place where Ray is another than it was made: methods of Ray 2.60 that are replaced while a sweep runs.

What replaces a method stands or falls with the code around it, so `require_tried_ray` refuses any other Ray.

What Tune takes for the failure of a trial (`failures_counted_fairly`):

- A node that is preempted or dies is no fault of its trials: it does not use up resources.max_failures. Ray counts it,
  unless the node announced its end. It learns of an unannounced one from missed health checks, after about 15 s; asked
  before, it says that the actor is unavailable.
- So with the node that is lost while a trial is restored from its checkpoint.
- Tune knows two errors of a trial's task, RayTaskError and RayActorError, and breaks off at any other. A kill by Ray's
  memory monitor is another, and so is a result that was lost on its way. They are failures of that trial.
- A trial whose process fails while `reset_config` hands it over from an ended trial is given up at once, whatever
  max_failures says: Tune handles the end of an actor of a pending trial twice, and finds the trial not running at the
  second, nor at the first where `reset_config` raised. It also holds the trial for being handed over for ever.

Where Ray stages the files of a search (`own_staging`), what it reads at its end (`nothing_read_back`), what it prints
(`quiet`), and how long it waits for a node to start (`patient_start`).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tune_app.errors import RunFailed

if TYPE_CHECKING:
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

TRIED = "2.60."
START_S = 120.0
"""Seconds that a node of Ray may take to start; Ray gives up after 30, which a busy machine or a cold disk exceeds."""
NODE_DIED = "its node has died"
"""In what Ray says of an actor whose node is gone, ray::gcs GcsActorManager."""


def require_tried_ray() -> None:
    """Raise RunFailed for a Ray that the replacements below were not tried on."""
    found = metadata.version("ray")
    if not found.startswith(TRIED):
        raise RunFailed(
            f"ray {found}: this program replaces some methods of Ray and was tried with {TRIED}x only. Install that: "
            f"pip install 'ray[default,tune]=={TRIED}*'"
        )


@contextlib.contextmanager
def failures_counted_fairly() -> Iterator[None]:
    """Within it, Tune counts as failures of a trial those that are, each once, and tries again up to max_failures."""
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

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
    from ray.exceptions import RayActorError, RayError, RayTaskError

    if not isinstance(error, RayError) or isinstance(error, RayActorError | RayTaskError):
        return error
    return RayActorError(error_msg=f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _replaced(owner: Any, name: str, replacement: Callable[[Any], Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _unless_node_lost(count: Any) -> Any:
    from ray.exceptions import ActorUnavailableError, RayActorError

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
    from ray.tune.experiment import Trial

    if trial in controller._resetting_trials:
        controller._resetting_trials.remove(trial)
        controller._unstage_trial_with_resources(trial)
        controller._set_trial_status(trial, Trial.RUNNING)


@contextlib.contextmanager
def own_staging() -> Iterator[None]:
    """Within it, a search stages its files where no other does.

    Ray names that folder in the head's session by the second and the name of the run, which is the same for all of
    ours: of two searches begun at once on one cluster each was given the folders of both.
    """
    from ray.train._internal.storage import StorageContext

    def named(make: Any) -> Any:
        def init(storage: Any, *given: Any, **by_name: Any) -> None:
            make(storage, *given, **by_name)
            storage._timestamp += f"_{secrets.token_hex(8)}"

        return init

    with _replaced(StorageContext, "__init__", named):
        yield


@contextlib.contextmanager
def nothing_read_back() -> Iterator[None]:
    """Within it, Ray ends a search without reading every result.json into a pandas frame; nobody here asks for it."""
    from ray.tune import ExperimentAnalysis

    with _replaced(ExperimentAnalysis, "_fetch_trial_dataframes", lambda read: lambda analysis: {}):
        yield


@contextlib.contextmanager
def quiet(verbose: int) -> Iterator[None]:
    """Keep Ray's chatter off the terminal unless it was asked for."""
    if verbose:
        yield
        return
    from ray._private import worker

    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # the display says which trial failed, its error.txt why
    # Pages of a raylet's state, where one died.
    silenced = _replaced(worker, "print_to_stdstream", lambda printer: lambda *args, **kwargs: None)
    with warnings.catch_warnings(), silenced:
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextlib.contextmanager
def patient_start() -> Iterator[None]:
    """Within it, Ray waits START_S seconds for its own node to be known, instead of the 30 that it has written down."""
    from ray._private import services

    with _replaced(services, "get_node", _asked_again):
        yield


def _asked_again(ask: Any) -> Any:
    def node(*args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + START_S
        while True:
            try:
                return ask(*args, **kwargs)
            except RuntimeError:  # what Ray raises until the node is known
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    return node
