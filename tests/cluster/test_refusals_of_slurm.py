"""What a real Slurm with accounts refuses or lets wait is told in its own words, and what to do about it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE
from slurm_site import Site

from cluster import slurm_client
from cluster.__main__ import act
from cluster.errors import ClusterError, SlurmRefused
from cluster.slurm_provider import SlurmNodeProvider
from cluster.state import State, cluster_folder, write_state
from tune_app.sweep.standstill import what_slurm_says

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
IDLE = "#!/bin/sh\nsleep 600\n"
POLICY = "allocation failure: Job violates accounting/QOS policy"


@pytest.fixture(scope="module")
def accounted(site: Site) -> Site:
    """A site whose user has accounts and QOS with limits, and is kept out of others."""
    site.accounts("add", "account", "cards_2", "GrpTRES=gres/gpu=2")
    site.accounts("add", "account", "one_job")
    site.accounts("add", "account", "of_others")
    site.accounts("add", "qos", "short", "MaxWall=00:30:00", "Flags=DenyOnLimit")
    site.accounts("add", "qos", "cards_2", "MaxTRESPerUser=gres/gpu=2")
    site.accounts("add", "qos", "small_jobs", "MaxTRESPerJob=gres/gpu=1")
    site.accounts("add", "qos", "of_others")
    site.accounts("add", "user", "root", "account=cards_2,one_job")
    site.accounts("modify", "user", "where", "name=root", "set", "qos=normal,short,cards_2,small_jobs")
    site.accounts("modify", "user", "where", "name=root", "account=one_job", "set", "MaxSubmitJobs=1")
    return site


@pytest.fixture
def slurm(accounted: Site, clusters: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Its commands are on PATH, and no job is there; jobs only wait for their end."""
    monkeypatch.setenv("PATH", f"{accounted.commands()}:{os.environ['PATH']}")
    monkeypatch.setattr("cluster.slurm_provider.script", lambda *words, **more: IDLE)
    yield accounted
    accounted.login("scancel", "--user=root")
    accounted.until(lambda: accounted.jobs() == [], "no job")


def up(site: Site, *words: str) -> int:
    return act(["up", "wait_s=20", "name=a", f"config={site.cluster_yaml()}", *words])


@pytest.mark.parametrize(
    ("words", "given", "said", "fix"),
    [
        ("partition=l50", "--partition=l50", "invalid partition specified: l50", "sinfo -s"),
        ("account=no_such", "--account=no_such", "Invalid account or account/partition combination", "account=NAME"),
        ("account=of_others", "--account=of_others", "Invalid account or account/partition combination", "sacctmgr"),
        ("qos=no_such", "--qos=no_such", "Invalid qos specification", "qos=NAME"),
        ("qos=of_others", "--qos=of_others", "Invalid qos specification", "sacctmgr show assoc"),
        ("qos=short hours=2", "--time=0-02:00:00", f"QOSMaxWallDurationPerJobLimit; {POLICY}", "hours=N"),
        ("account=one_job", "--account=one_job", f"AssocMaxSubmitJobLimit; {POLICY}", "nodes=MIN..MAX"),
        ("gpus_per_node=4", "--gres=gpu:l40s:4", "Requested node configuration is not available", "sinfo -o"),
    ],
)
def test_up_tells_a_refusal_and_leaves_nothing(slurm: Site, words: str, given: str, said: str, fix: str) -> None:
    if "one_job" in words:
        slurm_client.submit(IDLE, ["--account=one_job", "--job-name=other"])
    jobs = slurm.jobs()
    with pytest.raises(SlurmRefused) as caught:
        up(slurm, *words.split())
    message = str(caught.value)
    assert message.startswith(f"Slurm refused --{message.partition(' --')[2][:1]}")
    assert [part for part in (given, said, fix) if part not in message] == []
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert slurm.jobs() == jobs
    assert {path.name for path in cluster_folder("a").iterdir()} <= {"up.lock"}


def test_the_command_line_ends_with_two_and_one_sentence(slurm: Site) -> None:
    said = slurm.python("cluster", "up", "name=a", "qos=of_others", f"config={slurm.cluster_yaml()}", code=2)
    assert said.startswith("error: Slurm refused --cpus-per-task=")
    assert len(said.strip().splitlines()) == 1


def test_a_head_that_would_wait_for_ever_is_cancelled(slurm: Site) -> None:
    with pytest.raises(ClusterError, match=r"wait for ever \(PartitionTimeLimit\).*hours="):
        up(slurm, "hours=1000")
    slurm.until(lambda: slurm.jobs() == [], "the head to be cancelled")
    assert not {"token", "state.json"} & {path.name for path in cluster_folder("a").iterdir()}


def provider(site: Site, **limits: str) -> SlurmNodeProvider:
    """Of a cluster whose head has ten hours left."""
    now = time.time()
    state = State(name="a", head_job="1", python="3", ray="2", started=now, ends=now + 36000, address="n0:11000")
    write_state(cluster_folder("a"), state)
    (cluster_folder("a") / "logs").mkdir()  # without it Slurm cannot start a job
    config = {"folder": str(cluster_folder("a")), "max_workers": 3, "partition": "l40-gpu", **limits}
    return SlurmNodeProvider(config, "a")


def launch(provider: SlurmNodeProvider, count: int) -> None:
    node, resources = {"gres": "gpu:l40s:2", "memory_gb": 1}, {"CPU": 2.0, "GPU": 2.0}
    provider.create_node_with_resources_and_labels(node, {TAG_RAY_USER_NODE_TYPE: "l40s_2gpu"}, count, resources, {})


@pytest.mark.parametrize(
    ("limit", "count", "reason", "meaning"),
    [
        ({"account": "cards_2"}, 2, "AssocGrpGRES", "together hold what they may"),
        ({"qos": "cards_2"}, 2, "QOSMaxGRESPerUser", "gives one person"),
        ({"qos": "small_jobs"}, 1, "QOSMaxGRESPerJob", "wait for ever"),
        ({}, 3, "Resources", "the nodes are taken"),
    ],
)
def test_what_a_worker_waits_for_is_told_in_status_and_to_the_sweep(
    slurm: Site, capsys: pytest.CaptureFixture[str], limit: dict[str, str], count: int, reason: str, meaning: str
) -> None:
    nodes = provider(slurm, **limit)
    launch(nodes, count)

    def waiting() -> list[str]:
        return [id_ for id_ in nodes.non_terminated_nodes({}) if not nodes.is_running(id_)]

    slurm.until(lambda: len(waiting()) == 1 and reason in what_slurm_says(cluster_folder("a")), reason, 20)
    assert meaning in what_slurm_says(cluster_folder("a"))
    act(["status", "name=a"])
    assert re.search(rf"^waiting +job {waiting()[0]}: {reason} \(.*{meaning}", capsys.readouterr().out, re.MULTILINE)
    nodes.terminate_nodes(waiting())
    slurm.until(lambda: len(nodes.non_terminated_nodes({})) == count - 1, "its end", 30)
    assert what_slurm_says(cluster_folder("a")) == "", "nothing waits any more"


def test_a_refused_worker_is_told_in_status_and_to_the_sweep(slurm: Site, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = provider(slurm, account="one_job")
    with pytest.raises(SlurmRefused, match="AssocMaxSubmitJobLimit"):
        launch(nodes, 2)
    assert len(nodes.non_terminated_nodes({})) == 1, "the first one was taken"
    assert "Slurm refused a node" in what_slurm_says(cluster_folder("a"))
    act(["status", "name=a"])
    assert "AssocMaxSubmitJobLimit" in capsys.readouterr().out
