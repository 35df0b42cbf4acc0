"""Ray's memory monitor kills trials, and the sweep goes on.

The monitor, its killing and the errors that reach the driver are Ray's own. Only the gauge is ours: in the nodes' mount
namespace /proc/meminfo is a file of this test, so that no memory has to be filled on a machine that others use.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated_cluster import SimulatedCluster, simulated_cluster
from slurm_site import CPU_TRIALS, send
from trial_lives import lives, lost_one_epoch_at_most

from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS, EPOCHS, KILLS, PATIENCE_S = 3, 50, 2, 240
SWEEP = (
    "family=seesaw",
    "name=hungry",
    "search=random",
    f"search.num_samples={TRIALS}",
    "search.baseline=false",
    "scheduler.name=none",
    f"trainer.epochs={EPOCHS}",
    *CPU_TRIALS,
    "resources.gpus_per_trial=0",
    f"resources.max_failures={2 * KILLS}",
)
TOTAL_KB = 4 * 2**20
BIND = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /proc/meminfo && exec "$@"')


def show(meminfo: Path, free: float) -> None:
    """Let the nodes believe that this share of the memory is free. Written in place: what is bound is the file."""
    kb = int(free * TOTAL_KB)
    lines = {"MemTotal": TOTAL_KB, "MemFree": kb, "MemAvailable": kb, "SwapTotal": 0, "SwapFree": 0}
    lines |= dict.fromkeys(("Buffers", "Cached", "SReclaimable", "Shmem"), 0)
    with meminfo.open("r+" if meminfo.exists() else "w") as file:
        file.write("".join(f"{name + ':':16}{value:8d} kB\n" for name, value in lines.items()))


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare, for a mount namespace")
    show(tmp_path / "meminfo", 0.8)
    return tmp_path / "meminfo"


@pytest.fixture
def cluster(tmp_path: Path, shared_cache: Path, meminfo: Path) -> Iterator[SimulatedCluster]:
    with simulated_cluster(
        tmp_path,
        shared_cache,
        (*BIND, str(meminfo)),
        RAY_memory_usage_threshold="0.9",
        RAY_memory_monitor_refresh_ms="100",
    ) as cluster:
        cluster.add(num_cpus=2, memory=2**30)
        yield cluster


def until(condition: Callable[[], bool], cluster: SimulatedCluster) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, cluster.told()
        time.sleep(0.1)


def reported(folder: Path) -> list[dict[str, Any]]:
    """All whole rows that the driver has logged, with the process that trained."""
    lines = [
        line for path in folder.glob("trials/*/result.json") for line in path.read_text().splitlines(keepends=True)
    ]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def alive(pids: set[int]) -> set[int]:
    """Those that run; a zombie does not."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found |= {pid} if state != "Z" else set()
    return found


def kill_some(cluster: SimulatedCluster, meminfo: Path, folder: Path, run: subprocess.Popen[str]) -> None:
    """Once a few more epochs are reported, let the nodes be short of memory until a process that trained has gone."""
    rows = len(reported(folder))
    until(lambda: len(reported(folder)) > rows + 3 or run.poll() is not None, cluster)
    running = alive({row["pid"] for row in reported(folder)})
    send(running, signal.SIGSTOP)  # they must not end by themselves
    show(meminfo, 0.05)
    until(lambda: alive(running) != running or run.poll() is not None, cluster)
    show(meminfo, 0.8)
    send(running, signal.SIGCONT)


def test_a_memory_kill_costs_its_trial_one_epoch_and_the_sweep_nothing(
    cluster: SimulatedCluster, meminfo: Path
) -> None:
    run = cluster.run(*SWEEP)
    folder = cluster.folder / "results" / "hungry"

    for kill in range(KILLS):
        kill_some(cluster, meminfo, folder, run)
        assert run.poll() is None, f"the sweep ended with kill {kill + 1}\n{cluster.told()}"
    assert run.wait(PATIENCE_S) == 0, cluster.told()
    assert "the search broke" not in cluster.told()

    trials = Sweep(folder).trials
    assert [trial.status for trial in trials] == ["finished"] * TRIALS
    assert all([row["epoch"] for row in trial.history] == list(range(1, EPOCHS + 1)) for trial in trials)
    killed = [trial for trial in trials if (trial.folder / "error.txt").is_file()]
    assert all("out_of_memory" in [one.code for one in trial.diagnoses] for trial in killed)
    told = [lives(trial.folder / "trial.log") for trial in killed]
    assert all(map(lost_one_epoch_at_most, told))
    taken_up = sum(len(of_trial) - 1 for of_trial in told)  # one that had not begun yet may be killed beside them
    assert taken_up >= KILLS, "each kill was of a process that had trained"
