"""Errors of Ray that Tune does not know become those of one trial."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from tune_app.diagnosis import of_error
from tune_app.memory_kills import as_actor_error, memory_kills_are_failures


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory."), "out_of_memory"),
        (WorkerCrashedError(), "lost_worker"),
    ],
)
def test_an_error_that_tune_does_not_know_becomes_one_that_it_does(error, code):
    known = as_actor_error(error)
    assert isinstance(known, RayActorError)
    assert str(error) in str(known)
    assert of_error(str(known), 3).code == code


@pytest.mark.parametrize("error", [ActorDiedError(), ValueError("ours")])
def test_others_stay_as_they_are(error):
    assert as_actor_error(error) is error


def test_tune_breaks_off_at_a_memory_kill_only_outside():
    told = []
    manager = RayActorManager.__new__(RayActorManager)
    manager._failed_actor_ids = set()
    manager._cleanup_actor = lambda tracked_actor: None
    actor = SimpleNamespace(actor_id=1, _on_error=None)
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, error: told.append(error))
    with memory_kills_are_failures():
        manager._actor_task_failed(tracked_actor_task=task, exception=OutOfMemoryError("low"))
    assert [type(error) for error in told] == [RayActorError]
    with pytest.raises(RuntimeError, match="unexpected exception: low"):
        manager._actor_task_failed(tracked_actor_task=task, exception=OutOfMemoryError("low"))
