"""A Ray cluster of several nodes on this machine (`ray.cluster_utils`), in a process of its own that takes commands.

A node is Ray's raylet, agents and workers, ended together. The head has no CPUs: drivers run there, trials elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class SimulatedCluster:
    """Nodes by number, from 0. They run until `close`."""

    def __init__(self, folder: Path, cache: Path, start: Sequence[str] = (), **variables: str) -> None:
        self.folder = folder
        # Short: the path of a socket may have 107 characters.
        self.temporary = Path(tempfile.mkdtemp(prefix="sim", dir="/tmp"))
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_APP_"))},
            "TUNE_APP_CACHE": str(cache),
            "TUNE_APP_SETTINGS": "/dev/null",
            "PYTHONPATH": str(ROOT),
            "TUNE_APP_RESULTS": str(folder / "results"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "150",
            "TMPDIR": str(self.temporary),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            **variables,
        }
        self._log = (folder / "cluster.log").open("w")
        self._process = subprocess.Popen(
            [*start, sys.executable, str(Path(__file__)), str(self.temporary / "ray")],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._drivers: list[subprocess.Popen[str]] = []
        self.address = self._answer()["address"]

    def add(self, **node: float) -> int:
        """Start a node with these arguments of ray.cluster_utils (num_cpus=2, num_gpus=1); its number."""
        return int(self._ask("add", **node)["node"])

    def remove(self, number: int, *, graceful: bool) -> None:
        """End all processes of a node, by SIGTERM or by SIGKILL, and wait until they are gone."""
        self._ask("remove", node=number, graceful=graceful)

    def run(self, *words: str) -> subprocess.Popen[str]:
        """Start `python -m tune_app.run WORDS` attached to the cluster; its output goes to run-N.txt."""
        with (self.folder / f"run-{len(self._drivers)}.txt").open("w") as file:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tune_app.run",
                    f"cluster.address={self.address}",
                    f"cluster.token_path={self.token}",
                    *words,
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._drivers.append(process)
        return process

    def told(self) -> str:
        """What the drivers have printed."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("run-*.txt")))

    def close(self) -> None:
        for driver in self._drivers:
            _end(driver)
        with contextlib.suppress(OSError, ValueError, AssertionError):
            self._ask("close")
        _end(self._process)
        self._log.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with contextlib.suppress(OSError):
                pipe.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the cluster ended\n{(self.folder / 'cluster.log').read_text()[-3000:]}"
        return dict(json.loads(line))


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def simulated_cluster(
    folder: Path, cache: Path, start: Sequence[str] = (), **variables: str
) -> Iterator[SimulatedCluster]:
    """A head without CPUs. start: a command that is to start the nodes. variables: more environment, for all."""
    cluster = SimulatedCluster(folder, cache, start, **variables)
    try:
        yield cluster
    finally:
        cluster.close()


def serve(temp_dir: str) -> None:
    """Start the head; then one command per line of stdin, one answer per line of stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what Ray prints is no answer
    from ray.cluster_utils import Cluster

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": temp_dir, "memory": 2**30}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = []
    answer(address=cluster.address)
    for line in sys.stdin:
        command = json.loads(line)
        verb = command.pop("verb")
        if verb == "add":
            nodes.append(cluster.add_node(**command))
        elif verb == "remove":
            cluster.remove_node(nodes[command["node"]], allow_graceful=command["graceful"])
        else:
            break
        answer(node=len(nodes) - 1)
    cluster.shutdown()
    answer()


if __name__ == "__main__":
    serve(sys.argv[1])
