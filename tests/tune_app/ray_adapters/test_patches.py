"""Which failures of a trial Tune counts, and which it tries again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.tune.experiment import Trial

from tune_app.ray_adapters.patches import as_actor_error, failures_counted_fairly
from tune_app.results.diagnosis import of_error

DIED = "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor died because its node has died."


@pytest.mark.parametrize("restoring", [False, True])
@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (RayActorError("a", DIED), 0),
        (RayActorError("a", "preempted", preempted=True), 0),
        (ActorUnavailableError("RpcError: RPC error: Socket closed rpc_code: 14", None), 0),
        (RayActorError("a", "The actor died: worker process killed by signal 9"), 1),
    ],
)
def test_a_lost_node_is_no_failure_of_the_trial(error, failures, restoring, monkeypatch):
    monkeypatch.setattr(Trial, "local_path", None)
    trial = Trial("SegmentationTrial", stub=True)
    trial.temporary_state.restoring_from = SimpleNamespace() if restoring else None
    with failures_counted_fairly():
        trial.handle_error(error)
    assert trial.run_metadata.num_failures == failures


def test_afterwards_ray_counts_as_before():
    with failures_counted_fairly():
        pass
    trial = Trial("SegmentationTrial", stub=True)
    trial._handle_ray_actor_error(RayActorError("a", DIED))
    assert trial.run_metadata.num_failures == 1


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
    with failures_counted_fairly():
        manager._actor_task_failed(tracked_actor_task=task, exception=OutOfMemoryError("low"))
    assert [type(error) for error in told] == [RayActorError]
    with pytest.raises(RuntimeError, match="unexpected exception: low"):
        manager._actor_task_failed(tracked_actor_task=task, exception=OutOfMemoryError("low"))


HANDED_OVER = """
import os, sys
from pathlib import Path
import ray
from ray import tune
from tune_app.ray_adapters.patches import failures_counted_fairly

class Trainable(tune.Trainable):
    def setup(self, config):
        self.folder = Path(config["folder"])
        self.say("set up", config)
    def reset_config(self, config):
        self.say("handed over", config)
        if self.folder.name == "dies":
            os._exit(1)
        raise RuntimeError("cannot be handed over")
    def say(self, what, config):
        with (self.folder / "told").open("a") as file:
            print(config["number"], what, file=file)
    def step(self):
        return {"done": True}
    def save_checkpoint(self, folder):
        return {}
    def load_checkpoint(self, checkpoint):
        pass

ray.init(num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False)
for folder in sys.argv[2:]:
    tuner = tune.Tuner(
        Trainable, param_space={"number": tune.grid_search([0, 1]), "folder": folder},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=folder, failure_config=tune.FailureConfig(max_failures=1)),
    )
    with failures_counted_fairly():
        results = tuner.fit()
    print("failed:", len(results.errors), "of", len(results))
ray.shutdown()
"""


@pytest.mark.ray
def test_a_trial_whose_process_fails_at_the_handover_is_tried_again(tmp_path: Path) -> None:
    """Ray 2.60 alone gives it up at once, in both cases."""
    searches = [tmp_path / how for how in ("dies", "raises")]
    for folder in searches:
        folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short:
        ended = subprocess.run(
            [sys.executable, "-c", HANDED_OVER, short, *map(str, searches)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        )
    failed = [line for line in ended.stdout.splitlines() if line.startswith("failed: ")]
    assert failed == ["failed: 0 of 2"] * 2, ended.stdout + ended.stderr
    for folder in searches:
        told = (folder / "told").read_text().splitlines()
        assert told == ["0 set up", "1 handed over", "1 set up"], "it gets a process of its own"
