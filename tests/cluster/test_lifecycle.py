"""up, status, down and dashboard against a fake Slurm: what is submitted, what is refused, what is left."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from fake_slurm import FakeSlurm

from cluster.__main__ import act
from cluster.errors import ClusterError, ClusterInputError
from cluster.slurm_client import submit
from cluster.state import cluster_folder, read_state, record_usage, write_state

UP = ("up", "wait_s=0", "name=a")


def test_up_submits_a_held_head_and_says_where_it_is(
    fake_slurm: FakeSlurm, clusters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert act([*UP, "nodes=1..3", "hours=5", "qos=gpu_access", "head_partition=general"]) == 0
    tested, head_tested, options = fake_slurm.calls("sbatch")
    assert "--test-only" in tested
    assert {"--test-only", "--job-name=tune_app-a-head", "--partition=general"} <= set(head_tested)
    assert {"--partition=l40-gpu", "--gres=gpu:l40s:2", "--qos=gpu_access"} <= set(tested)
    assert {"--hold", "--job-name=tune_app-a-head", "--partition=general", "--time=0-05:00:00"} <= set(options)
    assert fake_slurm.calls("scontrol") == [["release", "101"]]
    state = read_state(cluster_folder("a"))
    assert state
    assert (state.head_job, state.address, round(state.ends - state.started)) == ("101", "", 5 * 3600)
    config = yaml.safe_load((cluster_folder("a") / "autoscaling.yaml").read_text())
    assert config["provider"]["max_workers"] == config["max_workers"] == 3
    printed = capsys.readouterr().out
    token = (cluster_folder("a") / "token").read_text()
    assert token not in printed
    assert token not in "".join(path.read_text() for path in fake_slurm.folder.glob("*.sh"))
    assert "not up yet" in printed


def test_two_heads_of_one_name(fake_slurm: FakeSlurm, clusters: Path) -> None:
    act([*UP])
    token = (cluster_folder("a") / "token").read_text()
    with pytest.raises(ClusterInputError, match=r"has a head already \(Slurm job 101, pending\)"):
        act([*UP])
    assert (cluster_folder("a") / "token").read_text() == token, "the running one keeps its token"
    act(["up", "wait_s=0", "name=b"])
    fake_slurm.set_state("101", "COMPLETED")
    act([*UP])


def test_a_head_that_ends_at_once_is_an_error(
    fake_slurm: FakeSlurm, clusters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.slurm_client.release", lambda job: fake_slurm.set_state(job, "FAILED"))
    with pytest.raises(ClusterError, match=r"head \(Slurm job 101\) ended before it answered"):
        act(["up", "name=a", "wait_s=30"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["up", "hours=-1"], "hours=-1: a number of at least"),
        (["up", "hours=nan"], "hours=nan: a number"),
        (["up", "hours=inf"], "hours=inf: a number"),
        (["up", "idle_minutes=-1"], "Use idle_minutes=5"),
        (["up", "wait_s=-5"], "Use wait_s=300"),
        (["up", "nodes=3..1"], "MIN"),
        (["up", "gpus_per_node=3"], "gpus_per_node=3"),
        (["up", "config=none.yaml"], "no such file"),
        (["start"], "no such verb"),
        (["status", "nam=a"], "Did you mean name"),
    ],
)
def test_bad_input(fake_slurm: FakeSlurm, clusters: Path, words: list[str], message: str) -> None:
    with pytest.raises(ClusterInputError, match=message):
        act(words)
    assert fake_slurm.calls("sbatch") == []


def test_status_shows_jobs_time_cost_and_the_last_refusal(
    fake_slurm: FakeSlurm, clusters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert act(["status", "name=a"]) == 0
    assert "no cluster a runs" in capsys.readouterr().out
    act([*UP])
    submit("", ["--job-name=tune_app-a-worker", "--comment=type=l40s_2gpu"])
    fake_slurm.set_state("102", "RUNNING", "n1")
    record_usage(cluster_folder("a"), "102", 2, began=time.time() - 5400, kind="worker")
    (cluster_folder("a") / "refused.json").write_text('{"time": 0, "message": "QOS limit"}')
    act(["status", "name=a"])
    printed = capsys.readouterr().out
    assert re.search(r"^head +job 101 +pending +0:0\d h, ", printed, re.MULTILINE)
    assert re.search(r"^worker +job 102 +running +n1 +l40s_2gpu +0:01 h, 23:58 h left", printed, re.MULTILINE)
    assert re.search(r"^waiting +job 101: \w+", printed, re.MULTILINE)
    assert "3.00 GPU-hours" in printed
    assert "QOS limit" in printed


def test_down_cancels_the_head_first_and_leaves_nothing(fake_slurm: FakeSlurm, clusters: Path) -> None:
    act([*UP])
    submit("", ["--job-name=tune_app-a-worker"])
    submit("", ["--job-name=tune_app-b-worker"])
    assert act(["down", "name=a"]) == 0
    assert fake_slurm.calls("scancel") == [["101"], ["102"]], "and not the other cluster's"
    assert not (cluster_folder("a") / "token").exists()
    assert not (cluster_folder("a") / "state.json").exists()
    assert act(["down", "name=a"]) == 0


def job(id_: str | None, status: str, **details: object) -> dict:
    return {"submission_id": id_, "status": status, "entrypoint": "", "metadata": None, "driver_info": None, **details}


@pytest.fixture
def jobs_of_head(fake_slurm: FakeSlurm, clusters: Path) -> Iterator[list[dict]]:
    """A cluster named a whose head runs and lists these jobs to whoever has its token."""
    act([*UP])
    fake_slurm.set_state("101", "RUNNING", "n1")
    token, listed = (cluster_folder("a") / "token").read_text(), []

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path == "/api/jobs/" and self.headers.get("Authorization") == f"Bearer {token}"
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps(listed if allowed else []).encode())

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state = read_state(cluster_folder("a"))
    assert state
    address = f"127.0.0.1:{server.server_port}"
    write_state(cluster_folder("a"), replace(state, address=address, dashboard=f"http://{address}"))
    yield listed
    server.shutdown()
    server.server_close()
    thread.join()


def test_down_names_what_it_would_end_and_wants_force(fake_slurm: FakeSlurm, jobs_of_head: list[dict]) -> None:
    jobs_of_head += [
        job("eight-1", "RUNNING", metadata={"words": "name=eight"}),
        job("old-1", "SUCCEEDED", metadata={"words": "name=old"}),
        job(None, "RUNNING", entrypoint="run.py p=1", driver_info={"node_ip_address": "10.0.0.2"}),
    ]
    named = r"still runs eight-1 \(name=eight\); one attached on 10.0.0.2 \(run.py p=1\)\. .*down name=a force=true"
    with pytest.raises(ClusterInputError, match=named):
        act(["down", "name=a"])
    assert fake_slurm.calls("scancel") == []
    assert act(["down", "name=a", "force=true"]) == 0
    assert fake_slurm.calls("scancel") == [["101"]]


def test_down_ends_a_cluster_on_which_nothing_runs(fake_slurm: FakeSlurm, jobs_of_head: list[dict]) -> None:
    assert act(["down", "name=a"]) == 0
    assert fake_slurm.calls("scancel") == [["101"]]


def test_down_ends_a_head_that_does_not_answer(fake_slurm: FakeSlurm, clusters: Path) -> None:
    act([*UP])
    state = read_state(cluster_folder("a"))
    assert state
    write_state(cluster_folder("a"), replace(state, address="127.0.0.1:1", dashboard="http://127.0.0.1:1"))
    assert act(["down", "name=a"]) == 0


def test_a_damaged_usage_file_keeps_nothing_from_its_end(
    fake_slurm: FakeSlurm, clusters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    act([*UP])
    record_usage(cluster_folder("a"), "101", 2, began=time.time() - 5400, kind="worker")
    (cluster_folder("a") / "usage" / "102.json").write_text("{bad")
    (cluster_folder("a") / "refused.json").write_text('{"time": null}')
    act(["status", "name=a"])
    assert act(["down", "name=a"]) == 0
    assert capsys.readouterr().out.count("3.00 GPU-hours") == 2
    assert not (cluster_folder("a") / "token").exists()


def test_the_dashboard_line(fake_slurm: FakeSlurm, clusters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterInputError, match="no such cluster"):
        act(["dashboard", "name=a"])
    act([*UP])
    state = read_state(cluster_folder("a"))
    assert state
    write_state(cluster_folder("a"), replace(state, address="10.1.2.3:11100", dashboard="http://10.1.2.3:11101"))
    act(["dashboard", "name=a"])
    printed = capsys.readouterr().out
    assert "ssh -N -L 11101:10.1.2.3:11101 " in printed
    assert "@longleaf.unc.edu" in printed
    assert "http://127.0.0.1:11101" in printed
    assert (cluster_folder("a") / "token").read_text() not in printed
