"""What a job of a cluster clears up, with processes that stand where Ray would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ray_node import end, end_rest, local_folder, own_ip, start

SLEEPER = "import time; time.sleep(60)"
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
        subprocess.Popen([sys.executable, "-c", SLEEPER], env={**os.environ, "RAY_CLOUD_INSTANCE_ID": id_})
        for id_ in ("987654321", "98765432")
    )
    try:
        time.sleep(0.2)  # until the children have their own environment
        end_rest("987654321")
        assert of_job.wait(10) == -signal.SIGKILL
        assert of_other.poll() is None
    finally:
        of_other.kill()
        of_other.wait()
        of_job.kill()
        of_job.wait()


def test_the_local_folder_is_short_and_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_APP_NODE_TMP", str(tmp_path / ("deep" * 20)))
    folder = local_folder("17")
    try:
        assert folder.parent == Path("/tmp"), "a socket's path has at most 107 characters"
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        folder.rmdir()


def test_the_own_address_is_no_loopback_where_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (address, 0)) for address in ("127.0.1.1", "10.4.0.7")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *words: found)
    assert own_ip() == "10.4.0.7"
