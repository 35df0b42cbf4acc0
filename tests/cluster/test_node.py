"""What a job of a cluster clears up, with processes that stand where Ray would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ports import free_ports
from cluster.ray_node import Place, end, end_rest, head_command, local_folder, own_ip, start, worker_command

SLEEPER = "import time; print(flush=True); time.sleep(60)"
STUBBORN = (
    f"import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w').close(); {SLEEPER}"
)


def test_a_process_that_ignores_sigterm_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.ray_node.STOP_S", 0.2)
    process = start([sys.executable, "-c", STUBBORN, str(tmp_path / "ready")], os.environ)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    end(process)
    assert process.returncode == -signal.SIGKILL


def test_what_bears_the_job_id_is_ended_and_nothing_else() -> None:
    of_job, of_other = (
        subprocess.Popen(
            [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, env={**os.environ, "RAY_CLOUD_INSTANCE_ID": id_}
        )
        for id_ in ("987654321", "98765432")
    )
    try:
        for process in (of_job, of_other):
            assert process.stdout
            process.stdout.readline()  # while it is being started, its environment may read as empty
        end_rest("987654321")
        assert of_job.wait(10) == -signal.SIGKILL
        assert of_other.poll() is None
    finally:
        for process in (of_job, of_other):
            process.kill()
            process.communicate()


def place_in(folder: Path) -> Place:
    ports = free_ports(17, "127.0.0.1")
    return Place(folder=folder, job_id="17", ip="127.0.0.1", ports=ports, temp_dir=folder, token=folder / "token")


@pytest.mark.parametrize(("base", "used"), [("/tmp", "/tmp"), ("/var/tmp", "/var/tmp"), ("/tmp/" + "ü" * 9, "/tmp")])
def test_ray_gets_a_folder_in_one_that_is_ones_own_and_short(
    base: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_APP_NODE_TMP", base)
    folder = local_folder("12345678")
    try:
        assert folder.parent == Path(used)
        assert folder.stat().st_mode & 0o777 == 0o700
        place = place_in(folder)
        for command in (
            head_command(place, cpus=1, gpus=0, autoscaling=None),
            worker_command(place, "127.0.0.1:1", cpus=1, gpus=0),
        ):
            (given,) = (word.removeprefix("--temp-dir=") for word in command if word.startswith("--temp-dir="))
            assert Path(given).parent == folder, "Ray opens what it is given to everybody"
            session = f"{given}/session_2026-11-27_03-44-33_123456_4194304"
            assert len(os.fsencode(f"{session}/sockets/plasma_store")) <= 107
    finally:
        folder.rmdir()


def test_the_own_address_is_no_loopback_where_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (address, 0)) for address in ("127.0.1.1", "10.4.0.7")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *words: found)
    assert own_ip() == "10.4.0.7"
