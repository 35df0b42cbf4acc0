"""A cluster is found, or one sentence says within seconds what is wrong. The dashboard is a small server here."""

from __future__ import annotations

import json
import platform
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.connect import connect, is_here
from cluster.errors import ClusterInputError
from cluster.state import State, cluster_folder, make_token, write_state


class Dashboard(BaseHTTPRequestHandler):
    token = ""
    node = "127.0.0.1"

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == f"Bearer {self.token}"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        nodes = [{"ip": self.node, "raylet": {"state": "ALIVE"}}, {"ip": "10.9.9.9", "raylet": {"state": "DEAD"}}]
        self.wfile.write(json.dumps({"data": {"summary": nodes}} if allowed else {}).encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def dashboard(clusters: Path) -> Iterator[str]:
    """A cluster named a, whose head is this machine; the address of its dashboard."""
    token = make_token(cluster_folder("a"))
    handler = type("Handler", (Dashboard,), {"token": token.read_text()})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    remember(dashboard=url)
    yield url
    server.shutdown()
    server.server_close()
    thread.join()


def remember(**changes: object) -> None:
    now = time.time()
    values = {
        "name": "a",
        "head_job": "7",
        "python": platform.python_version(),
        "ray": version("ray"),
        "started": now,
        "ends": now + 3600,
        "address": "127.0.0.1:11700",
        "dashboard": "http://127.0.0.1:1",
    }
    write_state(cluster_folder("a"), State(**values | changes))  # type: ignore[arg-type]


def test_a_cluster_is_found_with_its_token(dashboard: str) -> None:
    found = connect("a")
    assert (found.address, found.dashboard, found.here) == ("127.0.0.1:11700", dashboard, True)
    assert found.token == cluster_folder("a") / "token"


def test_a_machine_that_is_no_node_is_told_so(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dashboard, "node", "10.0.0.8")
    assert not connect("a").here


def test_a_machine_is_a_node_by_whatever_name_its_head_was_given() -> None:
    """Ray calls a node by its address in the network, whoever says localhost."""
    assert is_here("localhost:6379", {"10.255.255.254", "127.0.0.1"})
    assert not is_here("127.0.0.1:6379", {"10.255.255.254"})
    assert not is_here("there.is.no.such.host.invalid:6379", {"127.0.0.1"})


def test_a_wrong_token(dashboard: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("0" * 64)
    with pytest.raises(ClusterInputError, match=r"refuses the token in .*other") as caught:
        connect("a", token_path=str(tmp_path / "other"))
    assert "0" * 64 not in str(caught.value)


def test_a_token_that_is_not_there(dashboard: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterInputError, match="No such file"):
        connect("a", token_path=str(tmp_path / "none"))
    (tmp_path / "empty").touch()
    with pytest.raises(ClusterInputError, match="it is empty"):
        connect("a", token_path=str(tmp_path / "empty"))


def test_a_token_that_others_may_read_is_warned_of(dashboard: str, capsys: pytest.CaptureFixture[str]) -> None:
    connect("a")
    assert capsys.readouterr().err == ""
    (cluster_folder("a") / "token").chmod(0o644)
    connect("a")
    assert "mode 0644: others may read it" in capsys.readouterr().err


def test_a_head_that_has_died(clusters: Path) -> None:
    make_token(cluster_folder("a"))
    remember()
    with pytest.raises(ClusterInputError, match=r"nothing answers at http://127\.0\.0\.1:1 .*python -m cluster status"):
        connect("a")


@pytest.mark.parametrize(("key", "value"), [("ray", "2.59.0"), ("python", "3.10.4")])
def test_other_versions_are_both_said(dashboard: str, key: str, value: str) -> None:
    remember(dashboard=dashboard, **{key: value})
    with pytest.raises(ClusterInputError) as caught:
        connect("a")
    assert value in str(caught.value)
    assert f"this is Ray {version('ray')} on Python {platform.python_version()}" in str(caught.value)


@pytest.mark.parametrize("address", ["auto", "10.0.0.1", "ray://10.0.0.1:10001", "http://h:1", "h:port"])
def test_an_address_is_host_and_port(clusters: Path, tmp_path: Path, address: str) -> None:
    (tmp_path / "token").write_text("x")
    with pytest.raises(ClusterInputError, match="host:port of Ray's head"):
        connect("local", address, str(tmp_path / "token"))


def test_an_address_where_nothing_listens_and_one_that_is_no_ray(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    with pytest.raises(ClusterInputError, match="nothing answers there"):
        connect("local", "127.0.0.1:1", str(tmp_path / "token"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(ClusterInputError, match="does not answer as Ray"):
            connect("local", f"127.0.0.1:{silent.getsockname()[1]}", str(tmp_path / "token"))
        assert time.monotonic() - began < 10
