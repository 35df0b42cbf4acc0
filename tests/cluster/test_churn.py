"""A sweep goes on while nodes come and go at random: no loss costs more than the epoch in hand, or counts as a failure.

What was trained is counted from trial.log: the process that trains appends a line when it takes a trial up and one per
epoch, whatever checkpoints, histories and the driver say later.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_cluster import SimulatedCluster, simulated_cluster
from slurm_site import CPU_TRIALS
from trial_lives import lives, lost_one_epoch_at_most

from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.nodes, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

TRIALS, EPOCHS, NODES, REMOVALS, PATIENCE_S = 10, 100, 4, 8, 600
SWEEP = (
    "family=seesaw",
    "name=churn",
    "search=random",
    f"search.num_samples={TRIALS}",
    "search.baseline=false",
    "scheduler.name=none",
    f"trainer.epochs={EPOCHS}",
    *CPU_TRIALS,
    "resources.gpus_per_trial=0",
    "resources.max_failures=0",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[SimulatedCluster]:
    with simulated_cluster(tmp_path_factory.mktemp("churn"), shared_cache) as cluster:
        yield cluster


def so_far(sweep: Path) -> tuple[int, int]:
    """How many epochs were trained, and how often a trial was resumed."""
    told = [lives(log) for log in sweep.rglob("trial.log")]
    return sum(len(epochs) for trial in told for _, epochs in trial), sum(len(trial[1:]) for trial in told)


def churn(cluster: SimulatedCluster, run: subprocess.Popen[str], sweep: Path) -> Counter[str]:
    """Nodes end and come, drawn from a fixed seed, until enough ended and a trial was lost; how many ended how.

    The clock is the epochs trained: on a slow machine, too, it is nodes at work that end.
    """
    draw = random.Random(20261121)
    there, removed = [cluster.add(num_cpus=1) for _ in range(NODES)], Counter[str]()
    ends, due = time.monotonic() + PATIENCE_S, draw.randint(5, 20)
    while run.poll() is None and time.monotonic() < ends:
        epochs, lost = so_far(sweep)
        if removed.total() >= REMOVALS and lost > 0:
            break
        if epochs < due:
            time.sleep(0.5)
            continue
        due = epochs + draw.randint(5, 20)
        if len(there) == 1 or (len(there) < NODES and draw.random() < 0.5):
            there.append(cluster.add(num_cpus=1))
        else:
            graceful = draw.random() < 0.5
            cluster.remove(there.pop(draw.randrange(len(there))), graceful=graceful)
            removed["told to end" if graceful else "killed"] += 1
    while len(there) < NODES:
        there.append(cluster.add(num_cpus=1))
    return removed


def test_ten_trials_on_four_nodes_that_come_and_go(cluster: SimulatedCluster) -> None:
    run = cluster.run(*SWEEP)
    removed = churn(cluster, run, cluster.folder / "results" / "churn")
    assert run.wait(PATIENCE_S) == 0, cluster.told()
    sweep = Sweep(cluster.folder / "results" / "churn")
    assert {trial.status for trial in sweep.trials} == {"finished"}, [trial.error for trial in sweep.trials]
    assert len(sweep.trials) == TRIALS
    every = list(range(1, EPOCHS + 1))
    assert all([row["epoch"] for row in trial.history] == every for trial in sweep.trials)

    lost = 0
    for trial in sweep.trials:
        told = lives(trial.folder / "trial.log")
        lost += len(told) - 1
        assert max(Counter(epoch for _, epochs in told for epoch in epochs).values()) <= 2
        assert lost_one_epoch_at_most(told)
    print(f"nodes removed: {dict(removed)}; trials lost: {lost}")
    assert min(removed["told to end"], removed["killed"]) > 0
    assert 0 < lost <= removed.total(), "a trial is resumed only where its node has gone"
