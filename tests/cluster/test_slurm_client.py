"""What Slurm prints is read. Slurm is a fake here; what a real one refuses is in test_refusals_of_slurm.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from cluster import slurm_client
from cluster.errors import ClusterError, ClusterInputError, SlurmRefused
from cluster.slurm_client import clean_environment, clock, comment_of, parse_jobs, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:05", 5),
        ("12:34", 754),
        ("1:00:00", 3600),
        ("2-03:04:05", 183845),
        ("11-00:00:00", 950400),
        ("UNLIMITED", 0),
        ("INVALID", 0),
        ("", 0),
    ],
)
def test_clock_times_of_slurm(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("total", [60, 3600, 86400, 90 * 60, 11 * 86400])
def test_a_limit_is_read_back_as_it_was_written(total: int) -> None:
    assert seconds(clock(total)) == total


def test_a_limit_is_rounded_down_and_never_nothing() -> None:
    assert clock(3659.9) == "0-01:00:00"
    assert clock(3) == "0-00:01:00"


def test_jobs_are_read_with_comments_that_hold_anything() -> None:
    text = (
        "7|tune_app-a-worker|RUNNING|n1|1:05|1:00:00|None|type=l40s_2gpu,request=ab-12\n"
        "8|tune_app-a-worker|PENDING||0:00|1:00:00|QOSMaxJobsPerUserLimit|(null)\n"
        "9|tune_app-a-worker|COMPLETING|n2|0:10|1:00:00|None|free|text\n"
        "slurm_load_jobs error\n"
    )
    running, pending, ending = parse_jobs(text)
    assert running.tags() == {"type": "l40s_2gpu", "request": "ab-12"}
    assert (running.elapsed_s, running.limit_s, running.waiting, running.gone) == (65, 3600, False, False)
    assert (pending.waiting, pending.gone, pending.tags(), pending.reason) == (
        True,
        False,
        {},
        "QOSMaxJobsPerUserLimit",
    )
    assert (ending.gone, ending.comment) == (True, "free|text")


@pytest.mark.parametrize("tags", [{"a": "b,c"}, {"a": "b=c"}, {"a": "b|c"}, {"a": "b c"}])
def test_a_tag_that_could_not_be_read_back_is_refused(tags: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no comma, bar"):
        comment_of(tags)


@pytest.mark.parametrize(
    ("said", "fragment"),
    [
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (exceeds limit)", "hours=N"),
        ("sbatch: error: something new", "something new"),
    ],
)
def test_what_the_slurm_of_the_tests_does_not_refuse(fake_slurm: FakeSlurm, said: str, fragment: str) -> None:
    fake_slurm.refuse("sbatch", said)
    with pytest.raises(SlurmRefused, match=fragment):
        slurm_client.submit("#!/bin/bash\n", ["--partition=l50-gpu", "--job-name=x"])


def test_a_silent_controller_is_an_error_not_an_empty_list(fake_slurm: FakeSlurm) -> None:
    fake_slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(ClusterError, match="controller does not answer"):
        slurm_client.jobs(["x"])


def test_without_slurm_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterInputError, match="there is no Slurm on this machine"):
        slurm_client.jobs(["x"])


def test_cancelling_what_is_gone_is_no_error(fake_slurm: FakeSlurm) -> None:
    fake_slurm.refuse("scancel", "scancel: error: Kill job error on job id 7: Invalid job id specified\n")
    slurm_client.cancel(["7"])
    assert fake_slurm.calls("scancel") == [["7"]]
    slurm_client.cancel([])
    assert len(fake_slurm.calls("scancel")) == 1, "nothing to cancel, nobody asked: `scancel` alone means all"


def test_a_job_starts_from_nothing_of_the_job_that_submits_it() -> None:
    inside = {
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "5",
        "SBATCH_PARTITION": "x",
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_ADDRESS": "x",
        "RAY_CLOUD_INSTANCE_ID": "5",
        "HOME": "/home/me",
        "TUNE_APP_CACHE": "/c",
        "RAY_PROMETHEUS_HOST": "http://p:9090",
        "RAY_GRAFANA_IFRAME_HOST": "http://g:3000",
        "TMPDIR": "/tmp/job5-x",
        "TUNE_APP_NODE_CACHE": "/tmp/job5-x/cache",
    }
    assert clean_environment(inside) == {
        "SLURM_CONF": "/etc/slurm.conf",
        "HOME": "/home/me",
        "TUNE_APP_CACHE": "/c",
        "RAY_PROMETHEUS_HOST": "http://p:9090",
        "RAY_GRAFANA_IFRAME_HOST": "http://g:3000",
    }, "where this person's Prometheus and Grafana are is for the head's dashboard"
    assert clean_environment({"TMPDIR": "/scratch/me"}) == {"TMPDIR": "/scratch/me"}, "a person's own"
