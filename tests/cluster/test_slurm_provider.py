"""What Ray's autoscaler asks of the node provider, with a fake Slurm. test_refusals_of_slurm.py has a real one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from ray.autoscaler.tags import TAG_RAY_LAUNCH_REQUEST, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from cluster.errors import ClusterError, SlurmRefused
from cluster.slurm_client import submit
from cluster.slurm_provider import SlurmNodeProvider
from cluster.state import State, cluster_folder, write_state

TAGS = {TAG_RAY_USER_NODE_TYPE: "l40s_2gpu", TAG_RAY_LAUNCH_REQUEST: "0f3a-11", TAG_RAY_NODE_KIND: "worker"}
NODE, RESOURCES = {"gres": "gpu:l40s:2", "memory_gb": 120}, {"CPU": 16, "GPU": 2}


@pytest.fixture
def provider(fake_slurm: FakeSlurm, clusters: Path) -> SlurmNodeProvider:
    head_until(hours=10)
    return new_provider()


def head_until(hours: float) -> None:
    now = time.time()
    state = State(
        name="a", head_job="100", python="3", ray="2", started=now, ends=now + hours * 3600, address="n0:11000"
    )
    write_state(cluster_folder("a"), state)


def new_provider() -> SlurmNodeProvider:
    config = {"folder": str(cluster_folder("a")), "max_workers": 3, "partition": "l40-gpu", "qos": "q", "account": ""}
    return SlurmNodeProvider(config, "a")


def launch(provider: SlurmNodeProvider, count: int) -> None:
    provider.create_node_with_resources_and_labels(NODE, TAGS, count, RESOURCES, {})


def test_a_worker_is_one_job_of_its_node_type(provider: SlurmNodeProvider, fake_slurm: FakeSlurm) -> None:
    launch(provider, 1)
    (options,) = fake_slurm.calls("sbatch")
    for option in (
        "--partition=l40-gpu",
        "--qos=q",
        "--gres=gpu:l40s:2",
        "--cpus-per-task=16",
        "--mem=122880M",
        "--nodes=1",
        "--job-name=tune_app-a-worker",
        "--comment=type=l40s_2gpu,request=0f3a-11",
        "--no-requeue",
        "--time=0-09:59:00",
    ):
        assert option in options
    assert not [option for option in options if option.startswith("--account")], "empty means: let Slurm choose"
    last = fake_slurm.script("101").strip().splitlines()[-1]
    assert last.startswith("exec ")
    assert last.endswith(f"-m cluster.node worker {cluster_folder('a')} type=l40s_2gpu cpus=16 gpus=2")


def test_jobs_count_while_slurm_holds_them(provider: SlurmNodeProvider, fake_slurm: FakeSlurm) -> None:
    launch(provider, 2)
    assert provider.non_terminated_nodes({}) == ["101", "102"]
    assert not provider.is_running("101")
    fake_slurm.set_state("101", "RUNNING", "n1")
    provider.non_terminated_nodes({})
    assert provider.is_running("101")
    assert provider.internal_ip("101") == "n1"
    tags = provider.node_tags("102")
    assert {key: tags[key] for key in TAGS} == TAGS


@pytest.mark.parametrize("state", ["CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "COMPLETING", "FAILED"])
def test_a_job_that_slurm_ended_is_gone(provider: SlurmNodeProvider, fake_slurm: FakeSlurm, state: str) -> None:
    launch(provider, 2)
    fake_slurm.set_state("101", state)
    assert provider.non_terminated_nodes({}) == ["102"]
    assert provider.is_terminated("101")


def test_the_head_is_listed_as_head(provider: SlurmNodeProvider) -> None:
    submit("", ["--job-name=tune_app-a-head"])
    submit("", ["--job-name=tune_app-b-worker"])
    launch(provider, 1)
    assert provider.non_terminated_nodes({TAG_RAY_NODE_KIND: "head"}) == ["101"]
    assert provider.non_terminated_nodes({TAG_RAY_NODE_KIND: "worker"}) == ["103"], "and no other cluster's workers"
    assert provider.node_tags("101")[TAG_RAY_USER_NODE_TYPE] == "head"


def test_a_new_provider_knows_all_that_an_old_one_started(provider: SlurmNodeProvider, fake_slurm: FakeSlurm) -> None:
    launch(provider, 2)
    again = new_provider()
    assert again.non_terminated_nodes({}) == ["101", "102"]
    assert again.node_tags("101")[TAG_RAY_LAUNCH_REQUEST] == "0f3a-11"
    again.terminate_nodes(["101", "102"])
    assert fake_slurm.calls("scancel") == [["101", "102"]]
    assert again.non_terminated_nodes({}) == []


def test_never_more_than_max_workers_whoever_asks(provider: SlurmNodeProvider, fake_slurm: FakeSlurm) -> None:
    launch(provider, 2)
    with pytest.raises(SlurmRefused, match="max_workers is 3"):
        launch(new_provider(), 2)
    assert len(fake_slurm.calls("sbatch")) == 3
    fake_slurm.set_state("101", "CANCELLED")
    launch(provider, 1)
    assert len(provider.non_terminated_nodes({})) == 3


def test_no_worker_for_the_last_two_minutes(provider: SlurmNodeProvider, fake_slurm: FakeSlurm) -> None:
    head_until(hours=0.03)
    with pytest.raises(ClusterError, match="allocation ends in"):
        launch(provider, 1)
    assert fake_slurm.calls("sbatch") == []


def test_a_silent_controller_is_no_empty_cluster(provider: SlurmNodeProvider, fake_slurm: FakeSlurm) -> None:
    fake_slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(ClusterError, match="does not answer"):
        provider.non_terminated_nodes({})
