"""Several processes of one trial, with a real Ray: the rows of one process, and what happens when one is lost."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tiny_trial import loss_of, trial_config

from trainables.errors import WorkerError
from trainables.settings import trial_settings
from trainables.workers import Workers, is_out_of_memory, num_workers

PATIENCE_S = 300.0
ONE, TWO = ({"cpus_per_trial": 1, "gpus_per_trial": 0, "workers_per_trial": n} for n in (1, 2))
NUMBERS = ("loss", "val_loss", "grad_norm", "weight_growth", "lr")


class Host:
    """What a trial's actor is to its workers."""

    def __init__(self, resources: dict[str, Any]) -> None:
        import volume_writer  # beside tiny_trial, which has put it on the path

        folder = Path(tempfile.mkdtemp(prefix="volumes"))
        volume_writer.write_small(folder)
        self.data = {"name": "cellmap", "root": str(folder), "cache_dir": str(folder / "cache"), "patch": [1, 16, 16]}
        self.workers = Workers(resources, cuda=False)

    def prepare(self, family: str, **sections: Any) -> None:
        data = self.data | {"classes": ["nuc", "mito_mem"]}
        model = {"options": {"norm": "instance"}}
        config = trial_config(data=data, **({"model": model} | sections))
        loss = loss_of(family) if family != "static" else {"name": "static", "params": {"weights": [1.0, 1.0]}}
        self.workers.prepare(trial_settings(config), loss, 0, 1.0, 1)

    def run_epoch(self) -> dict[str, Any]:
        return self.workers.run_epoch()

    def resume(self) -> None:
        self.workers.load_state_dict(self.workers.engine.state_dict())

    def run_short_of_memory(self) -> str:
        """Train while the other worker has no room for a batch: what is raised, and how many workers are left."""
        for other in self.workers._others:
            ray.get(other.__ray_call__.remote(without_room))
        try:
            self.workers.run_epoch()
        except Exception as error:
            return f"{type(error).__name__}, {is_out_of_memory(error)}, {len(self.workers._others)} left"
        return "nothing"

    def pids(self) -> list[int]:
        return ray.get([other.__ray_call__.remote(lambda _: os.getpid()) for other in self.workers._others])

    def graphs(self) -> int:
        return len(self.workers.own._parked)


def without_room(worker: Any) -> None:
    def step(*tensors: Any) -> None:
        torch.empty(2**60)

    worker.engine.sums_step = step


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2]), *sys.path])
    ray.init(
        num_cpus=16,
        num_gpus=0,
        include_dashboard=False,
        _temp_dir=temporary,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def host(resources: dict[str, Any]) -> Any:
    group = placement_group([{"CPU": 1}] * num_workers(resources), strategy="STRICT_PACK")
    ray.get(group.ready(), timeout=PATIENCE_S)
    where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    return ray.remote(Host).options(num_cpus=1, scheduling_strategy=where).remote(resources)


def get(call: Any) -> Any:
    return ray.get(call, timeout=PATIENCE_S)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_ray")
def test_two_workers_give_the_rows_of_one_trial_after_trial() -> None:
    """Equal batches; the second trial in the same processes, the third with another network, the fourth resumed."""
    hosts = [host(ONE), host(TWO)]
    assert len(get(hosts[1].pids.remote())) == 1
    for family, sections in (
        ("balanced_softmax", {}),
        ("static", {"trainer": {"accumulate": 2}}),
        ("seesaw", {"model": {"width": 6, "options": {"norm": "instance"}}}),
        ("static", {}),
    ):
        get([one.prepare.remote(family, **sections) for one in hosts])
        first = get([one.run_epoch.remote() for one in hosts])
        get([one.resume.remote() for one in hosts])
        for rows in (first, get([one.run_epoch.remote() for one in hosts])):
            assert rows[0].keys() == rows[1].keys()
            for name in NUMBERS:
                assert rows[1][name] == pytest.approx(rows[0][name], rel=2e-3), (family, name)
            assert [rows[1][f"support/{c}"] for c in ("nuc", "mito_mem")] == [
                rows[0][f"support/{c}"] for c in ("nuc", "mito_mem")
            ]
    assert get(hosts[1].graphs.remote()) == 1, "the network in between, for when it comes again"
    for one in hosts:
        ray.kill(one)


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_ray")
def test_a_lost_worker_ends_the_epoch_and_a_lost_trial_its_workers() -> None:
    endless = {"trainer": {"iterations_per_epoch": 1_000_000}}
    one = host(TWO)
    (pid,) = get(one.pids.remote())
    get(one.prepare.remote("static", **endless))
    epoch = one.run_epoch.remote()
    assert not ray.wait([epoch], timeout=2)[0]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="A worker of the trial was lost"):
        get(epoch)
    assert get(one.pids.remote()) == []
    ray.kill(one)

    one = host(TWO)
    (pid,) = get(one.pids.remote())
    get(one.prepare.remote("static", **endless))
    one.run_epoch.remote()
    ray.kill(one)
    assert gone(pid), "no worker outlives its trial"


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_ray")
def test_what_one_worker_cannot_do_ends_all_of_them() -> None:
    one = host(TWO)
    (pid,) = get(one.pids.remote())
    with pytest.raises(Exception, match=r"trainer\.batch_size=3"):
        get(one.prepare.remote("static", trainer={"batch_size": 3}))
    assert gone(pid)
    ray.kill(one)


@pytest.mark.parametrize(
    ("resources", "workers"),
    [
        ({"gpus_per_trial": 0}, 1),
        ({"gpus_per_trial": 0.5}, 1),
        ({"gpus_per_trial": 4}, 4),
        ({"gpus_per_trial": 0, "workers_per_trial": 3}, 3),
    ],
)
def test_a_trial_has_a_worker_for_each_of_its_cards(resources: dict[str, Any], workers: int) -> None:
    assert num_workers(resources) == workers


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_ray")
def test_a_worker_short_of_memory_ends_the_epoch_as_a_trial_short_of_memory() -> None:
    """And not as a lost one: it would be tried again as it was."""
    one = host(TWO)
    get(one.prepare.remote("static"))
    assert get(one.run_short_of_memory.remote()) == "OutOfMemoryError, True, 0 left"
    ray.kill(one)
