"""Nodes and heads that die or cannot be reached in the middle of a sweep, on a real Slurm: nothing finished is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from slurm_site import CPU_TRIALS, Site, send
from trial_lives import lives, lost_one_epoch_at_most

from cluster.state import read_state
from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]
PARTED_S = 60.0
SWEEP = (
    "search=random",
    "search.num_samples=8",
    "search.baseline=false",
    "scheduler.name=none",
    "trainer.epochs=25",
    *CPU_TRIALS,
    "resources.max_failures=0",
)
"""A trial that fails once is lost for good: but a node that goes is no failure of its trials."""


def epochs(sweep: Path) -> dict[str, list[int]]:
    found = Sweep(sweep)
    return {trial.name: [row["epoch"] for row in trial.history] for trial in found.trials}


def test_a_node_is_out_of_reach_one_is_preempted_another_killed_and_then_the_head(site: Site) -> None:
    site.python("cluster", "up", "nodes=2", "hours=2", f"config={site.cluster_yaml()}")
    sweep = site.folder / "results" / "lossy"
    site.start("tune_app.run", "family=seesaw", "cluster=longleaf", "name=lossy", *SWEEP)
    histories = sweep / "trials"
    site.until(lambda: len(list(histories.glob("*/history.jsonl"))) >= 6, "trials with an epoch behind them")
    state = read_state(site.clusters / "longleaf")
    assert state
    head = int(state.node.removeprefix("n"))
    other = 3 - head

    reached = site.trial_pids(head)
    send(reached, signal.SIGSTOP)  # only the node that the head does not reach may train
    with site.parted(head, other):
        time.sleep(PARTED_S)
        before = epochs(sweep)
    site.until(
        lambda: sum(len(rows) > len(before.get(name, [])) + 1 for name, rows in epochs(sweep).items()) >= 4,
        "the four trials that were out of reach to go on",
    )
    send(reached, signal.SIGCONT)
    assert all(lost_one_epoch_at_most(lives(log)) for log in histories.glob("*/trial.log"))

    preempted, *_ = site.jobs("tune_app-longleaf-worker")
    before = epochs(sweep)
    site.login("scancel", preempted)  # SIGTERM, and half a minute later SIGKILL, as a preemption
    waiting = site.trial_pids(1) + site.trial_pids(2)
    send(waiting, signal.SIGSTOP)  # however long Slurm takes, the sweep does not end meanwhile
    site.until(lambda: preempted not in site.jobs(), "the preempted job to end")
    send(waiting, signal.SIGCONT)
    site.until(lambda: sum(map(len, epochs(sweep).values())) > sum(map(len, before.values())) + 8, "training to go on")

    send(site.pids(other), signal.SIGKILL)  # slurmd, Ray and its trials
    before = epochs(sweep)
    site.restart_node(other)
    site.until(lambda: sum(map(len, epochs(sweep).values())) > sum(map(len, before.values())) + 8, "training to go on")

    send(site.ray_pids(head), signal.SIGKILL)
    site.until(lambda: site.jobs("tune_app-longleaf-head") == [], "the head's job to end")
    kept = epochs(sweep)
    site.python("cluster", "down")
    site.until(lambda: site.jobs() == [], "no orphaned job")
    site.python("cluster", "up", "nodes=2", "hours=2", f"config={site.cluster_yaml()}")
    site.python("tune_app.run", "resume=latest", "cluster=longleaf", timeout_s=400)
    found = Sweep(sweep)
    assert found.status == "finished"
    after = epochs(sweep)
    assert all(after[name][: len(rows)] == rows for name, rows in kept.items())
    assert {tuple(rows) for rows in after.values()} == {tuple(range(1, 26))}
    assert all(lost_one_epoch_at_most(lives(log)) for log in histories.glob("*/trial.log"))
    site.python("cluster", "down")
