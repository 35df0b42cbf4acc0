"""Ports, state files, tokens, usage, and the words of the command line."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from cluster.errors import ClusterInputError
from cluster.lifecycle import UpSettings
from cluster.ports import FIRST, NUM_BLOCKS, PER_JOB, free_ports, ports_of_job
from cluster.state import (
    State,
    cluster_folder,
    gpu_hours,
    make_token,
    read_state,
    record_usage,
    running_state,
    write_state,
)
from cluster.words import node_range, read_words


def state(**changes: object) -> State:
    now = time.time()
    values = {"name": "a", "head_job": "7", "python": "3.11.2", "ray": "2.60.0", "started": now, "ends": now + 3600}
    return State(**values | changes)  # type: ignore[arg-type]


def test_ports_of_one_job_are_all_different_and_of_the_next_job_all_others() -> None:
    options = [*ports_of_job(17).head_options(), *ports_of_job(18).head_options()]
    ports = [int(option.rpartition("=")[2]) for option in options]
    assert len(set(ports)) == len(ports) == 22
    every = [ports_of_job(id_) for id_ in range(NUM_BLOCKS)]
    assert len({ports.base for ports in every}) == NUM_BLOCKS
    assert min(ports.base for ports in every) == FIRST
    assert max(ports.last_worker for ports in every) < 32768, "the kernel's ephemeral ports begin there"


def test_job_ids_beyond_the_blocks_wrap() -> None:
    assert ports_of_job(3) == ports_of_job(3 + NUM_BLOCKS)
    assert free_ports(12_345_678, "127.0.0.1").base >= FIRST


def test_a_block_in_which_somebody_listens_is_passed_over() -> None:
    block = ports_of_job(5)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", block.base + 50))
        stranger.listen()
        assert free_ports(5, "127.0.0.1").base >= block.base + PER_JOB


def test_a_state_is_read_as_it_was_written(clusters: Path) -> None:
    folder = cluster_folder("a")
    assert read_state(folder) is None
    write_state(folder, written := state(address="10.0.0.1:11000"))
    assert read_state(folder) == written
    assert stat.S_IMODE((folder / "state.json").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["state.json"]


@pytest.mark.parametrize("damage", ['{"name": "a"', "[]", '{"ends": null}', '{"started": "abc"}', '{"name": 7}'])
def test_a_damaged_state_is_one_sentence(clusters: Path, damage: str) -> None:
    folder = cluster_folder("a")
    write_state(folder, state())
    given = json.loads((folder / "state.json").read_text())
    whole = damage.startswith("{") and damage.endswith("}")
    (folder / "state.json").write_text(json.dumps(given | json.loads(damage)) if whole else damage)
    with pytest.raises(ClusterInputError, match=r"state\.json is damaged"):
        read_state(folder)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", "x" * 41])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ClusterInputError, match="name of a cluster"):
        cluster_folder(name)


def test_a_token_is_new_each_time_and_its_owners_alone(clusters: Path) -> None:
    old = os.umask(0)
    try:
        path = make_token(cluster_folder("a"))
    finally:
        os.umask(old)
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(first) == 64
    assert make_token(cluster_folder("a")).read_text() != first


def test_gpu_hours_count_cards_times_time(clusters: Path) -> None:
    folder = cluster_folder("a")
    assert gpu_hours(folder) == 0
    record_usage(folder, "8", 2, began=time.time() - 1800, kind="worker")
    record_usage(folder, "9", 4, began=time.time() - 900, kind="worker")
    assert gpu_hours(folder) == pytest.approx(2.0, abs=0.01)


def test_no_cluster_an_expired_one_and_one_that_waits(clusters: Path) -> None:
    with pytest.raises(ClusterInputError, match=r"no such cluster.*python -m cluster up nodes=0\.\.2 hours=24$"):
        running_state("longleaf")
    write_state(cluster_folder("other"), state(name="other"))
    with pytest.raises(ClusterInputError, match=r"Running or recent: other\."):
        running_state("longleaf")
    with pytest.raises(ClusterInputError, match="has not started yet"):
        running_state("other")
    write_state(cluster_folder("other"), state(name="other", address="x:1", ends=time.time() - 60))
    with pytest.raises(ClusterInputError, match=r"its allocation \(Slurm job 7\) ended 20"):
        running_state("other")


@pytest.mark.parametrize(("text", "expected"), [("0..2", (0, 2)), ("2..8", (2, 8)), ("3", (3, 3)), ("1..1", (1, 1))])
def test_nodes(text: str, expected: tuple[int, int]) -> None:
    assert node_range(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0..0", "4..2", "-1..2", "2..", "..2", "two", "1...3", "1.5"])
def test_nodes_that_are_none(text: str) -> None:
    with pytest.raises(ClusterInputError, match="MIN"):
        node_range(text)


def test_words_become_settings() -> None:
    settings = read_words(UpSettings, ["nodes=1..3", "hours=1.5", "gpus_per_node=4", "qos=gpu_access"], "up")
    assert settings == UpSettings(nodes="1..3", hours=1.5, gpus_per_node=4, qos="gpu_access")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hour=3", "Did you mean hours"),
        ("hours=long", "hours=long: a number is needed"),
        ("gpus_per_node=2.5", "a whole number"),
        ("now", "written key=value"),
    ],
)
def test_words_that_cannot_be_read(word: str, message: str) -> None:
    with pytest.raises(ClusterInputError, match=message):
        read_words(UpSettings, [word], "python -m cluster up")


def test_state_files_of_a_later_version_can_be_read(clusters: Path) -> None:
    folder = cluster_folder("a")
    write_state(folder, state())
    content = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**content, "new": 1}))
    found = read_state(folder)
    assert found
    assert found.name == "a"
