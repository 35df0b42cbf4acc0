"""A Slurm site for a test: the bed of slurm_testbed.sh, and the program run on its login node."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster import ray_yaml

ROOT = Path(__file__).parents[2]
BED = Path(__file__).with_name("slurm_testbed.sh")
PATIENCE_S = 240.0
PACKAGES = "slurm-wlm slurmdbd mariadb-server munge iproute2"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "mariadbd", "munged", "ip", "nsenter", "unshare")
CPU_TRIALS = (
    "trainer.compile=false",
    "model.width=4",
    "model.depth=2",
    "trainer.iterations_per_epoch=6",
    "trainer.batch_size=4",
    "trainer.validation_batches=2",
    "trainer.lr=0.02",
    "data.patch=[1,32,32]",
    "hardware.device=cpu",
    "diagnosis.stop_hopeless=false",
    "resources.cpus_per_trial=1",
    "resources.gpus_per_trial=0.5",
)
"""Trials that hold half a (logical) card and train on the CPU."""


def what_is_missing() -> str:
    """What a testbed needs and this machine lacks; empty where it has all."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install --no-install-recommends {PACKAGES}"
    return "" if os.geteuid() == 0 else "needs root, for network namespaces"


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A signal to those of the processes that still are."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def command_of(pid: int) -> bytes:
    """The command line of a process; nothing of one that has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Site:
    """A login node and two compute nodes, of two fake L40S each unless `node` has them claim more: slurm_testbed.sh."""

    def __init__(self, folder: Path, cache: Path, **node: str) -> None:
        # Short: Slurm's and Ray's sockets have paths of at most 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix="bed", dir="/tmp"))
        self.prefix = f"bed{secrets.token_hex(3)}x"
        self.disk = self.root / "d"
        """The node's own, on each node; see `on_disk`."""
        self.folder = folder
        self.clusters = folder / "clusters"
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RAY_"))},
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "TUNE_APP_CACHE": str(cache),
            "PYTHONPATH": str(ROOT),
            "TUNE_APP_CLUSTERS": str(self.clusters),
            "TUNE_APP_SETTINGS": "/dev/null",
            "TUNE_APP_RESULTS": str(folder / "results"),
            "TUNE_APP_PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "150",
            "PYTHONUNBUFFERED": "1",
            "TUNE_APP_NODE_TMP": str(self.disk),
            "TMPDIR": str(self.disk),
            **node,
        }

    def open(self) -> None:
        self._bed("up")
        self.until(lambda: "2" in self.login("sinfo", "-h", "-t", "idle", "-o", "%D", code=None), "two idle nodes")

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._bed("down")
        shutil.rmtree(self.root, ignore_errors=True)

    def _bed(self, verb: str, nodes: int = 2) -> None:
        done = subprocess.run(
            ["bash", str(BED), verb, str(self.root), self.prefix, str(nodes)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def restart_node(self, number: int) -> None:
        """Bring a node back whose processes were killed."""
        self._bed("node", number)

    def login(self, *command: str, code: int | None = 0, timeout_s: float = PATIENCE_S) -> str:
        """Run a command on the login node; what it printed. Fails where its exit code is another (None: any)."""
        done = subprocess.run(
            [str(self.root / "login"), *command],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert code is None or done.returncode == code, f"{command}\n{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def commands(self) -> Path:
        """A folder for PATH: Slurm's commands, run on the login node."""
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            (folder / name).write_text(f'#!/bin/sh\nexec {self.root}/login {shutil.which(name)} "$@"\n')
            (folder / name).chmod(0o755)
        return folder

    def accounts(self, *words: str) -> None:
        """Change them: words of sacctmgr."""
        self.login("sacctmgr", "-i", *words)

    def python(self, module: str, *words: str, code: int | None = 0, timeout_s: float = PATIENCE_S) -> str:
        """Run `python -m MODULE WORDS` on the login node."""
        return self.login(sys.executable, "-m", module, *words, code=code, timeout_s=timeout_s)

    def start(self, module: str, *words: str) -> subprocess.Popen[str]:
        """The same, left running; its output goes to a file of the folder."""
        with (self.folder / f"{module}-{time.monotonic_ns()}.txt").open("w") as file:
            process = subprocess.Popen(
                [str(self.root / "login"), sys.executable, "-m", module, *words],
                env=self.environment,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def jobs(self, name: str = "") -> list[str]:
        """Ids of the jobs that wait or run, of this name where one is given."""
        named = [f"--name={name}"] if name else []
        return self.login("squeue", "-h", "-o", "%i", *named).split()

    def pids(self, node: int) -> list[int]:
        """Processes of a node (0: the login node), as this machine numbers them."""
        listed = subprocess.run(
            ["ip", "netns", "pids", f"{self.prefix}{node}"], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in listed.stdout.split()]

    def ray_pids(self, node: int) -> list[int]:
        """Those that are Ray's."""
        commands = {pid: command_of(pid) for pid in self.pids(node)}
        return [pid for pid, line in commands.items() if b"ray" in line and b"slurm" not in line.split(b"\0")[0]]

    def trial_pids(self, node: int) -> list[int]:
        """Those that hold a trial, from the names that Ray gives its workers."""
        return [pid for pid in self.ray_pids(node) if b"SegmentationTrial" in command_of(pid)]

    def rank_pids(self, node: int) -> list[int]:
        """Those that are the further processes of a trial."""
        return [pid for pid in self.ray_pids(node) if b"ray::Worker" in command_of(pid)]

    def inside(self, node: int) -> list[str]:
        """What enters a node: words to put before a command."""
        pid = (self.root / "run" / f"n{node}.pid").read_text().strip()
        return ["nsenter", f"--target={pid}", "--net", "--mount", f"--pid=/proc/{pid}/ns/pid_for_children"]

    def on_node(self, node: int, *command: str) -> str:
        """Run a command on a node, as if somebody had logged in there."""
        done = subprocess.run(
            [*self.inside(node), *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def parted(self, one: int, other: int) -> Iterator[None]:
        """Within it, whatever two nodes send each other is lost without a word; Slurm's controller reaches both."""
        ways = [
            (f"{self.prefix}{here}", f"10.98.0.1{there}", "dev", "eth0") for here, there in ((one, other), (other, one))
        ]
        for namespace, *neighbour in ways:
            nowhere = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
            subprocess.run(["ip", "-n", namespace, "neigh", "replace", *neighbour, *nowhere], check=True)
        try:
            yield
        finally:
            for namespace, *neighbour in ways:
                subprocess.run(["ip", "-n", namespace, "neigh", "del", *neighbour], check=True)

    def on_disk(self, node: int) -> list[Path]:
        """What lies on the disk of a node, as everybody else sees it."""
        return sorted((self.root / f"disk-n{node}").iterdir())

    def until(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}\n{self.told()}"
            time.sleep(0.5)

    def told(self) -> str:
        """The ends of all logs, for a test that failed."""
        files = [*self.folder.glob("*.txt"), *self.folder.glob("*.log"), *self.clusters.glob("*/logs/*.log")]
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in files)

    def cluster_yaml(self) -> Path:
        """The project's cluster YAML with the sizes of this site."""
        config = ray_yaml.read(ray_yaml.DEFAULT)
        config["provider"] |= {"head": {"partition": "l40-gpu", "cpus": 1, "memory_gb": 2}}
        for kind in ("l40s_2gpu", "l40s_4gpu"):
            config["available_node_types"][kind]["resources"]["CPU"] = 4
            config["available_node_types"][kind]["node_config"]["memory_gb"] = 4
        path = self.folder / "site.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path


@contextlib.contextmanager
def slurm_site(folder: Path, cache: Path, **node: str) -> Iterator[Site]:
    """A site for the body of the `with`; skips the test, saying what is missing, where there can be none."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    site = Site(folder, cache, **node)
    try:
        site.open()
        yield site
    finally:
        site.close()
