"""A cluster on a real Slurm: it comes up, grows for trials, shrinks, keeps strangers out, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_site import CPU_TRIALS, Site, command_of, send

from cluster.ports import Ports
from cluster.state import State, read_state
from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
UP = ("up", "nodes=0..2", "hours=2", "idle_minutes=0.3")
EIGHT = (
    "search=random",
    "search.num_samples=8",
    "search.baseline=false",
    "scheduler.name=none",
    "trainer.epochs=12",
    *CPU_TRIALS,
)
HUGE = (*(word for word in EIGHT if "cpus_per_trial" not in word), "resources.cpus_per_trial=64")


@pytest.fixture(scope="module")
def up(site: Site) -> Iterator[Site]:
    """The site with a cluster that runs."""
    printed = site.python("cluster", *UP, f"config={site.cluster_yaml()}")
    assert "address    10.98.0.1" in printed, printed + site.told()
    yield site
    site.python("cluster", "down", "force=true", code=None)


def state_of(site: Site) -> State:
    state = read_state(site.clusters / "longleaf")
    assert state
    return state


def workers(site: Site) -> list[str]:
    return site.jobs("tune_app-longleaf-worker")


def test_a_sweep_on_a_nodes_own_disk_ends_when_a_node_comes_that_does_not_see_it(up: Site) -> None:
    """At its start no node but the head's is there."""
    place = f"results_dir={up.disk / 'results'}"
    said = up.python("tune_app.run", "family=seesaw", "cluster=longleaf", "name=local", place, *EIGHT, code=2)
    other = f"n{3 - head_node(up)}"
    assert f"error: {place}: node {other} does not see {up.disk / 'results'}" in said
    assert "shared file system: results_dir=PATH" in said
    assert (up.root / f"disk-{state_of(up).node}" / "results" / "local" / "sweep.yaml").is_file()
    assert not (up.root / f"disk-{other}" / "results" / "local" / "sweep.yaml").exists()


def test_the_autoscaler_brings_two_nodes_for_eight_half_cards_and_sends_them_away(up: Site) -> None:
    run = up.start("tune_app.run", "family=seesaw", "cluster=longleaf", "name=eight", *EIGHT)
    most: Counter[int] = Counter()
    stopped: set[int] = set()

    def four_on_each() -> bool:
        """A trial that is there waits for the others: its node must not be free before the second one has come."""
        for node in (1, 2):
            trials = up.trial_pids(node)
            send(trials, signal.SIGSTOP)
            stopped.update(trials)
            most[node] = max(most[node], len(trials))
        return most[1] >= 4 and most[2] >= 4

    up.until(four_on_each, "four trials on each node")
    send(stopped, signal.SIGCONT)
    assert max(most.values()) == 4
    assert len(workers(up)) == 2
    assert run.wait(240) == 0, up.told()
    for node in (1, 2):
        copies = [path for job in up.on_disk(node) for path in job.glob("cache/packed/*/index.json")]
        assert copies, "the packed data, copied to each node's own disk"
    sweep = Sweep(up.folder / "results" / "eight")
    assert (sweep.status, len(sweep.trials)) == ("finished", 8)
    assert {trial.epochs for trial in sweep.trials} == {12}
    up.until(lambda: workers(up) == [], "idle workers to be cancelled")
    assert len(up.jobs("tune_app-longleaf-head")) == 1


def test_two_trials_of_two_cards_at_once_on_two_nodes(up: Site) -> None:
    """Each has both of its processes on one node, and prepares its data for itself, on the node's own disk."""
    two = (
        "resources.gpus_per_trial=2",
        "search.num_samples=2",
        "trainer.epochs=20",
        f"data.cache_dir={up.disk / 'cache'}",
    )
    run = up.start("tune_app.run", "family=seesaw", "cluster=longleaf", "name=pairs", *EIGHT, *two)
    trials, stopped = up.folder / "results" / "pairs" / "trials", set[int]()

    def both_train() -> bool:
        """A trial that has an epoch waits for the other: its node must not be free before."""
        begun = [path.parent.name.encode() for path in trials.glob("*/history.jsonl")]
        found = [pid for pid in up.trial_pids(1) + up.trial_pids(2) if any(name in command_of(pid) for name in begun)]
        send(found, signal.SIGSTOP)
        stopped.update(found)
        return len(begun) == 2

    up.until(both_train, "an epoch of each trial")
    assert [len(up.trial_pids(node)) for node in (1, 2)] == [1, 1], "a trial takes both cards of a node"
    assert [len(up.rank_pids(node)) for node in (1, 2)] == [1, 1], "beside it runs its second process"
    send(stopped, signal.SIGCONT)
    assert run.wait(300) == 0, up.told()
    sweep = Sweep(trials.parent)
    assert [trial.epochs for trial in sweep.trials] == [20, 20]
    assert {row["hostname"] for trial in sweep.trials for row in result_rows(trial.folder)} == {"n1", "n2"}
    assert all((up.root / f"disk-n{node}" / "cache" / "packed").is_dir() for node in (1, 2))


def result_rows(trial: Path) -> list[dict]:
    """What Ray logged of a trial, with the node that reported it."""
    return [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]


def test_what_slurm_or_the_cluster_would_refuse_is_one_sentence(up: Site) -> None:
    yaml = f"config={up.cluster_yaml()}"
    refused = {
        ("cluster", *UP, yaml): "this cluster has a head already",
        ("cluster", *UP, yaml, "name=other", "partition=l50-gpu"): "there is no such partition",
        (
            "tune_app.run",
            "family=seesaw",
            "cluster=longleaf",
            "resources.gpus_per_trial=4",
        ): "4 workers, all on one node",
        ("tune_app.run", "family=seesaw", "cluster=longleaf", "name=huge", *HUGE): "no node can hold such a trial",
    }
    for (module, *words), sentence in refused.items():
        said = up.python(module, *words, code=2)
        assert sentence in said
        assert said.count("error:") == 1
    assert not (up.folder / "results" / "huge").exists()
    assert len(up.jobs()) == 1, "the head alone"


def test_a_sweep_is_confirmed_on_the_cluster(up: Site) -> None:
    said = up.python("tune_app.confirm", "sweep=eight", "top=1", "replicates=2", timeout_s=400)
    assert "the sweep runs there as job confirm-" in said, "where the sweep ran, without being told"
    confirmation = Sweep(up.folder / "results" / "eight" / "confirmation")
    assert (confirmation.status, len(confirmation.trials)) == ("finished", 4)
    assert "confirmation.json" in {path.name for path in (up.folder / "results" / "eight").iterdir()}
    up.until(lambda: workers(up) == [], "idle workers to be cancelled")


def client(site: Site, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python on the head's node, as a stranger would run it, with this environment only."""
    given = {name: value for name, value in site.environment.items() if not name.startswith("RAY_")} | environment
    command = [*site.inside(head_node(site)), sys.executable, "-c", code]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False, cwd=site.folder)


def head_node(site: Site) -> int:
    return int(state_of(site).node.removeprefix("n"))


STATUS = """
import sys, urllib.error, urllib.request
headers = {"Authorization": "Bearer " + sys.argv[2]} if sys.argv[2] else {}
request = urllib.request.Request(sys.argv[1], headers=headers)
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def http_status(site: Site, url: str, token: str = "") -> str:
    return site.on_node(head_node(site), sys.executable, "-c", STATUS, url, token).strip()


ATTACH = "import ray; ray.init('{address}'); print('in', ray.is_initialized())"


def test_without_the_token_nobody_gets_in(up: Site) -> None:
    state, token = state_of(up), up.clusters / "longleaf" / "token"
    good = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    wrong = up.folder / "wrong"
    wrong.write_text("0" * 64)
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/actors", "/api/cluster_status"):
        assert http_status(up, state.dashboard + path) == "401", path
        assert http_status(up, state.dashboard + path, wrong.read_text()) == "403", path
        assert http_status(up, state.dashboard + path, token.read_text()) == "200", path
    for address, times in ((state.address, 1), (state.client, 4)):  # Ray starts a server for each ray:// client
        attach = ATTACH.format(address=address)
        for _ in range(times):
            assert "in True" in (opened := client(up, attach, **good)).stdout, opened.stderr
        for bad in ({}, {**good, "RAY_AUTH_TOKEN_PATH": str(wrong)}):
            assert "in " not in client(up, attach, **bad).stdout


def test_what_ray_keeps_on_a_node_lies_in_a_folder_of_ones_own(up: Site) -> None:
    ray = up.root / f"disk-{state_of(up).node}" / Path(state_of(up).temp_dir).relative_to(up.disk)
    assert [path.is_dir() for path in ray.glob("session_2*/sockets")] == [True]
    assert ray.parent.stat().st_mode & 0o777 == 0o700


def test_a_wrong_token_is_one_sentence(up: Site) -> None:
    (up.folder / "wrong").write_text("0" * 64)
    (up.folder / "wrong").chmod(0o600)
    for where in ("cluster=longleaf", f"cluster.address={state_of(up).address}"):
        said = up.python("tune_app.run", where, f"cluster.token_path={up.folder / 'wrong'}", code=2)
        assert "refuses the token" in said or "does not answer" in said
        assert len(said.strip().splitlines()) == 1


def listeners(site: Site, node: int) -> set[tuple[str, int]]:
    """(address, port) of everything that listens in a node's network."""
    lines = site.on_node(node, "ss", "-Htln").splitlines()
    return {(host, int(port)) for host, _, port in (line.split()[3].rpartition(":") for line in lines)}


def test_the_head_listens_where_the_documentation_says(up: Site) -> None:
    state = state_of(up)
    base = int(state.address.rpartition(":")[2])
    ports = Ports(base)
    of_clients = {place for place in listeners(up, head_node(up)) if "127.0.0.1" in place[0] and place[1] // 1000 == 23}
    found = {port for _, port in listeners(up, head_node(up)) - of_clients} - {6818}  # slurmd's own
    outside = {port for port in found if not ports.base <= port <= ports.last_worker}
    assert outside == set(), f"undocumented listeners {outside}"
    assert {ports.gcs, ports.dashboard, ports.client, ports.agent, ports.metrics} <= found


def test_a_job_is_submitted_followed_stopped_and_resumed(up: Site) -> None:
    # Only this test ends the sweep: its epochs would last for days.
    long = ["search=random", "search.num_samples=4", "search.baseline=false", "scheduler.name=none", *CPU_TRIALS]
    said = up.python("tune_app.submit", "family=seesaw", "name=stopped", "trainer.epochs=1000000", *long)
    found = re.search(r"^job +(\S+)$", said, re.MULTILINE)
    assert found
    id_ = found[1]
    assert id_ in up.python("tune_app.submit", "jobs")
    history = up.folder / "results" / "stopped" / "trials"
    up.until(lambda: len(list(history.glob("*/history.jsonl"))) >= 2, "two trials with an epoch behind them")
    stock = up.login(
        "env",
        "RAY_AUTH_MODE=token",
        f"RAY_AUTH_TOKEN_PATH={up.clusters / 'longleaf' / 'token'}",
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "job",
        "list",
        f"--address={state_of(up).dashboard}",
    )
    assert id_ in stock, "the stock client sees the same"
    assert "stopped" in up.python("tune_app.submit", "stop", f"id={id_}")
    printed = up.python("tune_app.submit", "logs", f"id={id_}")
    assert "run resume=" in printed, "it ended in order"
    assert Sweep(up.folder / "results" / "stopped").status == "interrupted"
    before = {path.parent.name: path.read_text() for path in history.glob("*/history.jsonl")}
    resume = up.start("tune_app.run", "resume=stopped", "cluster=longleaf")
    up.until(
        lambda: all((history / name / "history.jsonl").read_text() != text for name, text in before.items()), "more"
    )
    resume.send_signal(signal.SIGINT)
    assert resume.wait(60) == 0
    after = {name: (history / name / "history.jsonl").read_text() for name in before}
    assert all(after[name].startswith(text) for name, text in before.items()), "nothing finished was trained again"
    (running,) = [line.split()[0] for line in up.python("tune_app.submit", "jobs").splitlines() if "RUNNING" in line]
    up.python("tune_app.submit", "stop", f"id={running}")
    assert "no such job" in up.python("tune_app.submit", "logs", "id=nonsense", code=2)


def left(site: Site) -> set[str]:
    """What is on the nodes' disks beside a user's own."""
    return {path.name for path in site.on_disk(1) + site.on_disk(2)} - {"results", "cache"}


def test_down_leaves_no_job_no_process_and_no_file(up: Site) -> None:
    assert "is down" in up.python("cluster", "down")
    assert up.jobs() == []
    up.until(lambda: up.ray_pids(1) + up.ray_pids(2) == [], "Ray's processes to end")
    with contextlib.suppress(AssertionError):
        up.until(lambda: not left(up), "the jobs' folders to leave the nodes' disks", 60.0)
    assert left(up) == set()
    said = up.python("tune_app.run", "cluster=longleaf", code=2)
    assert "python -m cluster up nodes=0..2 hours=24" in said
