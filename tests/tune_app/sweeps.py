"""Runs the real program on a tiny budget, breaks it from outside, and reads what it left.

Only processes that were started here are signalled, by their ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from tune_app.results.sweep import Sweep
from tune_app.search.recovery import recorded_curves
from tune_app.search.scheduler import Rank, ResumableAsha
from tune_app.search.study import open_study

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600.0
"""How long a step may take on a busy machine before the test gives up."""
TINY = (
    "trainer.compile=false",
    "model.width=4",
    "model.depth=2",
    "trainer.epochs=4",
    "trainer.iterations_per_epoch=6",
    "trainer.batch_size=4",
    "trainer.validation_batches=2",
    "trainer.lr=0.02",
    "data.patch=[1,32,32]",
    "cluster.dashboard=false",
    "resources.num_cpus=2",
    "resources.num_gpus=0",
    "hardware.device=cpu",
)
LONGER = (*TINY, "trainer.epochs=9", "trainer.iterations_per_epoch=20")
CLOCK = (
    "seconds_",
    "patches_per_s",
    "compiled_graphs",
    "time",
    "date",
    "pid",
    "trial_id",
    "iterations_since_restore",
    "config",
    "crc32",
)
"""Beginnings of the keys of a row that a clock or a process decides."""


class Place:
    """A folder to run in, with the environment that keeps a run off the person's own files."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self._runs: list[Run] = []
        # Ray's sockets lie in the temporary folder, and the path of a socket may have 107 characters.
        self.temporary = Path(tempfile.mkdtemp(prefix="tune", dir="/tmp"))
        self.environment = os.environ | {
            "TUNE_APP_CACHE": str(cache),
            "TUNE_APP_SETTINGS": "/dev/null",
            "TMPDIR": str(self.temporary),
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "150",
        }
        for name in ("TUNE_APP_RESULTS", "TUNE_APP_DATA_ROOT", "RAY_ADDRESS"):
            self.environment.pop(name, None)

    def stop_all(self) -> None:
        """End what a failed test left running."""
        for run in self._runs:
            if run.process.poll() is None:
                run.kill_all()
        self._runs.clear()

    def close(self) -> None:
        self.stop_all()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def start(self, verb: str, *words: str) -> Run:
        self._runs.append(run := Run(self, verb, words))
        return run

    def run(self, verb: str, *words: str, code: int = 0) -> str:
        """Run a verb to its end; its output. Fails where the exit code is another."""
        run = self.start(verb, *words)
        found = run.wait()
        assert found == code, f"exit code {found}\n{run.output()}"
        return run.output()

    def sweep(self, name: str) -> Path:
        return self.folder / "results" / name


class Run:
    """A started `python -m tune_app.VERB`, at the head of a process group of its own as in a shell."""

    def __init__(self, place: Place, verb: str, words: tuple[str, ...]) -> None:
        self._log = place.folder / f"output_{time.monotonic_ns()}.txt"
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tune_app.{verb}", *words],
                cwd=place.folder,
                env=place.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._log.read_text()

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"it did not end in {PATIENCE_S} s\n{self.output()}") from None

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something the run does; fails where it ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill_all()
                raise AssertionError(f"it ended, or nothing happened\n{self.output()}")
            time.sleep(0.01)

    def kill_all(self) -> list[int]:
        """SIGKILL to the driver and all its descendants, Ray's own processes among them; returns whom."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        return pids


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, from the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def open_to_strangers(folder: Path) -> list[str] | None:
    """What another user can read or write below `folder`, as that user finds it; None where we cannot become one."""
    if os.geteuid() or not shutil.which(AS_NOBODY[0]):
        return None
    wanted = ["(", "-readable", "-o", "-writable", ")", "-not", "-type", "l"]
    looked = subprocess.run(
        [*AS_NOBODY, "find", str(folder), "-mindepth", "1", *wanted], capture_output=True, text=True, check=False
    )
    return looked.stdout.splitlines()


def trial_workers(run: Run, title: str = "SegmentationTrial") -> list[int]:
    """The processes of Ray actors that run trials, or of those with another title."""
    found = []
    for pid in descendants(run.process.pid):
        with contextlib.suppress(OSError):
            if title.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a history.jsonl or result.json; every line must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def reported(sweep: Path) -> int:
    """Rows logged so far, over all trials."""
    return sum(path.read_bytes().count(b"\n") for path in sweep.glob("trials/*/result.json"))


def steady(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(CLOCK)}


def histories(sweep: Path) -> dict[str, list[dict[str, Any]]]:
    """{trial: rows of its history without what a clock decides}."""
    return {
        path.parent.name: [steady(row) for row in rows(path)] for path in sorted(sweep.glob("trials/*/history.jsonl"))
    }


def reported_epochs(sweep: Path) -> dict[str, list[int]]:
    """{trial: epochs in result.json, as they lie there}."""
    return {
        path.parent.name: [row["epoch"] for row in rows(path)] for path in sorted(sweep.glob("trials/*/result.json"))
    }


def trials_of(sweep: Path) -> list[optuna.trial.FrozenTrial]:
    return open_study(sweep, sweep.name, Sweep(sweep).objective).get_trials()


def states(sweep: Path) -> dict[str, str]:
    return {trial.user_attrs["name"]: trial.state.name for trial in trials_of(sweep)}


def fingerprints(folder: Path) -> dict[str, tuple[int, bytes]]:
    """{file: (time of its last change, content)} of a folder."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@contextlib.contextmanager
def place_in(folder: Path, cache: Path) -> Iterator[Place]:
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, cache)
    try:
        yield place
    finally:
        place.close()


@dataclass
class Cut:
    """What a sweep looked like after it had been killed."""

    output: str
    states: dict[str, str]
    files: dict[str, dict[str, tuple[int, bytes]]]
    """Of the trials that had ended."""
    rungs: dict[int, dict[str, Rank]]


def rungs_of(sweep: Path) -> dict[int, dict[str, Rank]]:
    """The rungs of a sweep of nine epochs, as a driver that takes it up rebuilds them."""
    best = Sweep(sweep).objective
    curves = recorded_curves(open_study(sweep, sweep.name, best), sweep, best)
    return ResumableAsha(objective=best, max_epochs=9, grace_period=5, reduction_factor=4.0, curves=curves).rungs()


def look_at(sweep: Path, output: str = "") -> Cut:
    found = states(sweep)
    ended = [name for name, state in found.items() if state != "RUNNING"]
    files = {name: fingerprints(sweep / "trials" / name) for name in ended}
    return Cut(output, found, files, rungs_of(sweep))


def killed(run: Run, sweep: Path) -> Cut:
    """kill -9 of the driver and of all that it started."""
    pids = run.kill_all()
    assert len(pids) >= 5, "driver, GCS, raylet, agents, workers"
    assert not any(map(is_alive, pids))
    assert Sweep(sweep).status == "crashed"
    return look_at(sweep, run.output())


def running_with_rows(sweep: Path) -> list[str]:
    """Trials that have reported and not ended."""
    if not (sweep / "study.journal").is_file():
        return []
    reporting = reported_names(sweep)
    return [trial.name for trial in Sweep(sweep).trials if trial.status == "running" and trial.name in reporting]


def reported_names(sweep: Path) -> set[str]:
    return {path.parent.name for path in sweep.glob("trials/*/result.json") if b"\n" in path.read_bytes()}


def ended_and_begun(sweep: Path, *, epochs: int, ended: int) -> bool:
    """Whether so many trials have reported all epochs, and another one some."""
    lengths = [path.read_bytes().count(b"\n") for path in sweep.glob("trials/*/result.json")]
    return sum(length == epochs for length in lengths) >= ended and any(0 < length < epochs for length in lengths)


def untouched(before: Cut, sweep: Path) -> bool:
    """Every trial that had ended has the files it had."""
    return all(fingerprints(sweep / "trials" / name) == files for name, files in before.files.items())


def exactly_once(sweep: Path) -> bool:
    """Every trial's rows lie in result.json once, in order, and agree with its history and the study's curve."""
    for trial in trials_of(sweep):
        folder = sweep / "trials" / trial.user_attrs["name"]
        logged = {row["epoch"]: row["mean_dice"] for row in rows(folder / "result.json")}
        assert list(logged) == list(range(1, len(logged) + 1)) == reported_epochs(sweep)[folder.name]
        assert logged == {row["epoch"]: row["mean_dice"] for row in rows(folder / "history.jsonl")}
        assert logged == trial.intermediate_values
    return True
