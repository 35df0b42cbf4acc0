"""cellmap-data in an environment of its own, made once in the cache folder, and a process of it to be measured.

    python -m benchmarks.peers.cellmap_data        make the environment and print its Python

cellmap-data needs zarr < 3, so it cannot live beside this program. Everything comes from the package index that pip is
configured for; PyTorch is installed first and pinned, so that no other build replaces it. `TORCH`, as for `make`, names
another build or index: TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu".
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainables.data.cache import cache_folder
from trainables.settings import DataSettings

DEFAULT_TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"
PACKAGES = ("cellmap-data==2026.3.20.1935", "zarr<3", "pyyaml")
WORKER = Path(__file__).with_name("cellmap_data_worker.py")


class PeerError(Exception):
    """The peer's environment cannot be made, or its process failed."""


def ensure_environment() -> Path:
    """The Python of a complete environment, made first where there is none. PeerError with pip's words if it fails."""
    folder = cache_folder(DataSettings()) / "peers" / "cellmap-data"
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = "\n".join([_torch(), TORCHVISION, *PACKAGES])
    with FileLock(f"{folder}.lock"):
        complete = folder / "complete"
        if not complete.exists() or complete.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            complete.write_text(wanted)
    return folder / "bin" / "python"


def _torch() -> str:
    return os.environ.get("TORCH") or DEFAULT_TORCH


def _make(folder: Path) -> None:
    print(f"making the environment of cellmap-data in {folder}; this takes minutes", file=sys.stderr, flush=True)
    run_command([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    torch, *options = shlex.split(_torch())
    run_command([*pip, torch, *options])
    run_command([*pip, "--no-deps", TORCHVISION, *options])
    pinned = folder / "constraints.txt"
    pinned.write_text("\n".join(f"{name}=={_version(python, name)}" for name in ("torch", "torchvision")) + "\n")
    run_command([*pip, "-c", str(pinned), *PACKAGES])


def _version(python: str, package: str) -> str:
    return run_command([python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]).strip()


def run_command(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"{shlex.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


class Peer:
    """A running worker; `task` as in cellmap_data_worker.py. Use it in a `with` block."""

    def __init__(self, python: Path, task: Mapping[str, Any]) -> None:
        # -P: this file's name is that of the library, and its folder must not be searched first
        command = [str(python), "-P", "-W", "ignore", str(WORKER), json.dumps(dict(task))]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        try:
            self.versions = self._answer()
        except BaseException:
            self.close()
            raise

    def measure(self, seconds: float) -> dict[str, Any]:
        """For at least `seconds`: patches, seconds, patches_per_s, the targets' shape and share of known ones."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip()[-2000:]
            raise PeerError(f"cellmap-data's process ended with {self.process.returncode}:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


if __name__ == "__main__":
    try:
        print(ensure_environment())
    except PeerError as error:
        sys.exit(str(error))
