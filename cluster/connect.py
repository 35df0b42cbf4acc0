"""Find a running cluster, and say in one sentence within seconds what is wrong with it.

Ray's own clients meet a wrong token or a silent address with up to a minute of ConnectionErrors, so every question here
has a time limit of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.errors import ClusterInputError
from cluster.ray_node import answers
from cluster.slurm_client import clean_environment
from cluster.state import cluster_folder, running_state

TIMEOUT_S = 3.0
PROBE_S = 7.0
"""With the time limit of one question, less than ten seconds."""
PROBE = """
import json, sys
from ray._raylet import GcsClient
gcs = GcsClient(address=sys.argv[1])
metadata = json.loads(gcs.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster"))
dashboard = gcs.internal_kv_get(b"dashboard", namespace=b"dashboard") or b""
alive = [node.node_manager_address for node in gcs.get_all_node_info().values() if not node.state]
print(json.dumps({**metadata, "dashboard": dashboard.decode(), "alive": alive}))
"""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A cluster that answers to our token and runs our Ray and Python."""

    address: str
    """host:port of Ray's GCS."""
    dashboard: str
    """http://host:port; empty where the cluster has no dashboard."""
    token: Path
    here: bool
    """Whether this machine is a node of it, so that a driver may attach; else it must be submitted as a job."""


def connect(name: str, address: str = "", token_path: str = "") -> Connection:
    """The person's own cluster `name`, or the one at `address` with the token in the file `token_path`.

    Raises ClusterInputError, within ten seconds, where there is none, where it does not answer, refuses the token, or
    runs another Ray or Python than this process.
    """
    return _given(address, token_path) if address else _own(name, token_path)


def _own(name: str, token_path: str) -> Connection:
    state = running_state(name)
    token = readable_token(token_path or str(cluster_folder(name) / "token"))
    what = f"cluster={name} ({state.address}, Slurm job {state.head_job})"
    refuse_other_versions(what, ray=state.ray, python=state.python)
    nodes = ask(state.dashboard, "/nodes?view=summary", token, what)
    return Connection(address=state.address, dashboard=state.dashboard, token=token, here=is_node(state.address, nodes))


def _given(address: str, token_path: str) -> Connection:
    default = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
    token = readable_token(token_path or default)
    what = f"cluster.address={address}"
    if address.count(":") != 1 or not address.rpartition(":")[2].isdigit():
        raise ClusterInputError(
            f"{what}: host:port of Ray's head is needed, as 10.0.0.1:6379; python -m cluster status"
        )
    if not answers(address, TIMEOUT_S):
        raise ClusterInputError(
            f"{what}: nothing answers there. Is the cluster still running, and can this machine reach it? "
            "cluster=local runs on this machine"
        )
    found = _probe(address, token, what)
    refuse_other_versions(what, ray=found["ray_version"], python=found["python_version"])
    named = found["dashboard"]  # also where none was started
    dashboard = f"http://{named}" if named and answers(named, TIMEOUT_S) else ""
    return Connection(address=address, dashboard=dashboard, token=token, here=is_here(address, found["alive"]))


def readable_token(path: str) -> Path:
    """The token's file. Raises ClusterInputError where it cannot be read."""
    token = Path(path).expanduser().absolute()
    try:
        if token.read_text().strip():
            if (mode := token.stat().st_mode & 0o777) & 0o077:
                warning = f"{token} has mode {mode:04o}: others may read it and run code as you. chmod 600"
                print(f"warning: {warning}", file=sys.stderr)
            return token
        why = "it is empty"
    except OSError as error:
        why = str(error.strerror)
    raise ClusterInputError(
        f"cluster.token_path={token}: the token cannot be read ({why}). For a cluster of your own, down and up make a "
        "new one; for another's, give the file that whoever started it let you read: cluster.token_path=PATH"
    )


def refuse_other_versions(what: str, *, ray: str, python: str) -> None:
    """Raise ClusterInputError unless this process has the cluster's Ray and Python, to the patch level as Ray wants."""
    here = (version("ray"), platform.python_version())
    if (ray, python) != here:
        raise ClusterInputError(
            f"{what}: the cluster runs Ray {ray} on Python {python}, this is Ray {here[0]} on Python {here[1]}, and "
            "the two must be the same. Use the virtual environment that the cluster was started from"
        )


def ask(url: str, path: str, token: Path, what: str) -> Any:
    """The JSON that the dashboard answers. Raises ClusterInputError where it does not, or refuses the token."""
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token.read_text().strip()}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a site's web proxy
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise ClusterInputError(_refused(what, token)) from None
        raise ClusterInputError(f"{what}: its dashboard answers {url}{path} with HTTP {error.code}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise ClusterInputError(
            f"{what}: nothing answers at {url} ({why}). It may have ended: python -m cluster status says so"
        ) from None


def _probe(address: str, token: Path, what: str) -> dict[str, Any]:
    """Versions, dashboard and live nodes as the GCS tells them, asked by a process that can be ended."""
    env = clean_environment(os.environ) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            env=env,
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterInputError(
            f"{what}: something listens there, but does not answer as Ray within {PROBE_S:g} s. Is it the address of "
            f"Ray's head (not of its dashboard), and is {token} its token? cluster.token_path=PATH gives another"
        ) from None
    if done.returncode == 0:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    if "uthenticat" in done.stderr or "token" in done.stderr.lower():
        raise ClusterInputError(_refused(what, token))
    last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
    raise ClusterInputError(f"{what}: no Ray cluster answers there ({last[0]}). python -m cluster status shows yours")


def _refused(what: str, token: Path) -> str:
    return (
        f"{what}: the cluster refuses the token in {token}. Give the token file of this cluster: "
        "cluster.token_path=PATH (whoever started it knows where; python -m cluster dashboard names yours)"
    )


def await_self(address: str, dashboard: str, token: Path, patience_s: float = 120.0) -> None:
    """Wait until the head's dashboard lists this machine. Raises ClusterInputError where it does not."""
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(ClusterInputError):
            if is_node(address, ask(dashboard, "/nodes?view=summary", token, address)):
                return
        if time.monotonic() > deadline:
            raise ClusterInputError(f"{dashboard}: Ray's dashboard does not list this machine after {patience_s:g} s")
        time.sleep(0.5)


def is_node(address: str, nodes: dict[str, Any]) -> bool:
    """Whether this machine, as the head sees it, is among the live nodes of the dashboard's summary."""
    summary = (nodes.get("data") or {}).get("summary") or []
    alive = {node.get("ip") for node in summary if (node.get("raylet") or {}).get("state") == "ALIVE"}
    return is_here(address, alive)


def is_here(address: str, alive: Collection[str]) -> bool:
    """Whether one of the live nodes of the head at `address` is this machine, called by whatever name."""
    own = own_address(address)
    # Ray never calls a node by its loopback address where it has another.
    return own in alive or (own.startswith("127.") and any(is_own(node) for node in alive if node))


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's: a socket can be bound to no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def own_address(address: str) -> str:
    """This machine's address as the head at `address` sees it; empty where there is no way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address.rpartition(":")[0], 1))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return ""
