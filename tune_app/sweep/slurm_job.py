"""What cluster/slurm/sweep.sbatch runs: a sweep inside one Slurm allocation, resumed until it is finished.

USR1, which Slurm sends before the wall limit, ends the search in order and puts the job back into the queue; started
again, it resumes the same sweep. SIGTERM (scancel, preemption) ends it in order too, and leaves the queue
to Slurm.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cluster import slurm_client
from cluster.allocation import ray_in_allocation
from cluster.state import clusters_folder
from trainables.files import write_text
from tune_app.errors import RunFailed
from tune_app.ray_adapters.remote import as_ours
from tune_app.results.manifest import file_sha256
from tune_app.settings.command_line import compose, exit_code
from tune_app.settings.schema import RunSettings, Settings
from tune_app.sweep.announce import INTERRUPTED
from tune_app.sweep.resume import earlier_folder, may_change

STORED = "sweep.yaml"
STANDSTILLS = 3
PATIENCE_S = 8.0
"""How long the driver may take to end after SIGTERM, of Slurm's KillWait (30 s, where nobody changed it)."""


class Signals:
    """What Slurm has sent since this was made; passed on to the driver, once there is one, as Ctrl-C."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.driver: subprocess.Popen[bytes] | None = None
        self._terminated = 0.0
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    @property
    def terminated_s(self) -> float:
        """Seconds since the first SIGTERM; 0 before."""
        return time.monotonic() - self._terminated if self._terminated else 0.0

    def _pass_on(self, number: int, frame: object) -> None:
        self.received.append(number)
        if number == signal.SIGTERM and not self._terminated:
            self._terminated = time.monotonic()
        if self.driver and self.driver.poll() is None:
            self.driver.send_signal(signal.SIGINT)


@dataclass(frozen=True)
class Begun:
    """What a job is about, fixed at its first start: `latest` may be another sweep at the next one."""

    folder: str
    """Of the sweep, absolute."""
    before: str
    """sha256 of its sweep.yaml before it was extended; empty where it is not to be."""


def first_start(settings: Settings, job_id: str) -> Begun:
    """The sweep that a job starts, resumes or extends. Raises InputError where there is none to resume."""
    if settings.resume or settings.extend:
        folder = earlier_folder(settings)
        return Begun(str(folder), file_sha256(folder / STORED) if settings.extend else "")
    name = settings.name or f"job-{job_id}_{settings.preset or settings.family}"
    return Begun(str(Path(settings.results_dir).expanduser().resolve() / name), "")


def words_of_start(words: Sequence[str], settings: Settings, begun: Begun) -> list[str]:
    """What `run` is given at this start: the words until the sweep has taken them up, then resume= and what may change.

    words: as typed; settings: what they say.
    """
    stored, goes_on = Path(begun.folder) / STORED, ("resume", "extend")
    keyed = [(word.split("=")[0], word) for word in words]
    if stored.is_file() and not settings.resume and file_sha256(stored) != begun.before:
        return [f"resume={begun.folder}", *(word for key, word in keyed if key not in goes_on and goes_along(key))]
    named = [f"{key}={begun.folder}" if key in goes_on else word for key, word in keyed]
    return named if settings.name or settings.resume or settings.extend else [*named, f"name={stored.parent.name}"]


def goes_along(key: str) -> bool:
    """Whether what was typed is said again when the sweep is resumed: what may change, and what no sweep keeps."""
    unkept = {field.name for field in fields(RunSettings)} - {field.name for field in fields(Settings)}
    return may_change(key) or key.split(".")[0] in unkept


def run_in_allocation(words: Sequence[str]) -> int:
    """Ray on the nodes of this job, the sweep on it; the sweep's exit code, 0 where the job was requeued."""
    composed = compose("run", RunSettings, words)
    if composed is None:
        return 0
    job_id = os.environ.get("SLURM_JOB_ID", "")
    folder = clusters_folder() / f"job-{job_id}"
    note = folder / "sweep.json"
    begun = Begun(**json.loads(note.read_text())) if note.is_file() else first_start(composed.settings, job_id)
    given, slurm = words_of_start(words, composed.settings, begun), Signals()
    with as_ours(), ray_in_allocation(folder) as (address, token):
        write_text(note, json.dumps(asdict(begun)))
        code = _drive([*given, f"cluster.address={address}", f"cluster.token_path={token}"], slurm)
    if signal.SIGUSR1 in slurm.received and code == INTERRUPTED:
        refuse_standstill(folder / "epochs.json", epochs_of(Path(begun.folder)))
        print(f"the wall limit is near: job {job_id} goes back into the queue, to resume the sweep", flush=True)
        with as_ours():
            slurm_client.requeue(job_id)
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    return code


def epochs_of(sweep: Path) -> int:
    """Epochs recorded so far in the folder of a sweep."""
    return sum(path.read_bytes().count(b"\n") for path in sweep.glob("trials/*/history.jsonl"))


def refuse_standstill(note: Path, epochs: int) -> None:
    """Remember the epochs at the end of each start; raise RunFailed where STANDSTILLS starts brought none."""
    ends = [*(json.loads(note.read_text()) if note.is_file() else []), epochs]
    write_text(note, json.dumps(ends))
    if len(ends) > STANDSTILLS and ends[-1 - STANDSTILLS] == epochs:
        raise RunFailed(
            f"{STANDSTILLS} starts in a row finished no epoch within their wall limit ({epochs} epochs so far), so the "
            "job is not requeued again. Give it more: sbatch --time=…"
        )


def _drive(words: Sequence[str], slurm: Signals) -> int:
    """Run the driver; what Slurm sends to us ends it in order, as Ctrl-C would. Its exit code."""
    if slurm.received:
        return INTERRUPTED
    slurm.driver = subprocess.Popen([sys.executable, "-m", "tune_app.run", *words], start_new_session=True)
    while slurm.driver.poll() is None:
        try:
            slurm.driver.wait(1)
        except subprocess.TimeoutExpired:
            if slurm.terminated_s > PATIENCE_S:  # Slurm's SIGKILL is near, and Ray's folders are still to be removed
                slurm.driver.kill()
    return slurm.driver.returncode


def main() -> None:
    sys.exit(exit_code(lambda: run_in_allocation(sys.argv[1:])))


if __name__ == "__main__":
    main()
