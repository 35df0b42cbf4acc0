"""A sweep as a job on a Ray cluster; it survives the terminal:  python -m tune_app.submit family=seesaw

python -m tune_app.submit family=seesaw      the settings of run; cluster=longleaf unless another is given
python -m tune_app.submit jobs               what was submitted, the latest first
python -m tune_app.submit logs id=ID         what a job has printed; follow=true until it ends
python -m tune_app.submit stop id=ID         ends it in order: run resume=NAME goes on
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster import jobs
from cluster.connect import Connection
from cluster.words import read_words
from trainables.settings import require_choice
from tune_app.errors import InputError
from tune_app.ray_adapters.remote import as_ours, found, plain
from tune_app.settings.command_line import Composed, compose, exit_code
from tune_app.settings.document import FORMATS, Ended, told
from tune_app.settings.schema import ClusterSettings, RunSettings, Settings
from tune_app.settings.terminal import columns
from tune_app.sweep.begin import refuse_elsewhere

DEFAULT_CLUSTER = "longleaf"


@dataclass(kw_only=True)
class JobSettings:
    """What `jobs`, `logs` and `stop` take."""

    id: str = ""
    """The job, as `jobs` lists it."""
    follow: bool = False
    """With logs: print until the job ends."""
    cluster: str = DEFAULT_CLUSTER
    """Name of the cluster."""
    address: str = ""
    """Address of another one, and the file with its token."""
    token_path: str = ""
    format: str = "table"
    """table or json (docs/json.md)."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)

    def connection(self) -> Connection:
        return found(ClusterSettings(name=self.cluster, address=self.address, token_path=self.token_path))

    def required_id(self) -> str:
        if not self.id:
            raise InputError("id= is needed: python -m tune_app.submit jobs lists the jobs")
        return self.id


def submit(words: Sequence[str]) -> int:
    """Check the words as `run` would, and submit them. Raises InputError before anything is sent."""
    composed = compose("run", RunSettings, words)
    return told("submit", composed.settings.format, lambda: send(composed)) if composed else 0


def send(composed: Composed[RunSettings]) -> Ended:
    """Submit what was composed, without format=, which is for `submit`."""
    refuse_elsewhere(composed.bare(Settings))
    where = composed.settings.cluster
    words = [word for word in plain(composed.overrides) if not word.startswith("format=")]
    if not where.remote:
        where, words = replace(where, name=DEFAULT_CLUSTER), [*words, f"cluster.name={DEFAULT_CLUSTER}"]
    id_ = jobs.submit(found(where), "tune_app.run", words)
    steps = [f"python -m tune_app.submit logs id={id_} follow=true", f"python -m tune_app.submit stop id={id_}"]
    print(f"job        {id_}")
    print("next       " + "\n           ".join(steps))
    return Ended(lambda: {"action": "submit", "id": id_, "words": words, "next": steps})


def list_jobs(settings: JobSettings) -> Ended:
    found = jobs.submitted(settings.connection())
    print("\n".join(jobs.listing(found, columns())) or "no jobs")
    return Ended(lambda: {"action": "jobs", "jobs": [{**job, "status": job["status"].lower()} for job in found]})


def logs(settings: JobSettings) -> Ended:
    id_, connection = settings.required_id(), settings.connection()
    text = jobs.log_of(connection, id_)
    if settings.follow:
        code = jobs.follow(connection, id_)
        return Ended(lambda: {"action": "logs", "id": id_, "log": jobs.log_of(connection, id_)}, code)
    print(text, end="")
    return Ended(lambda: {"action": "logs", "id": id_, "log": text})


def stop(settings: JobSettings) -> Ended:
    id_ = settings.required_id()
    status = jobs.stop(settings.connection(), id_)
    print(f"job {id_} has ended ({status.lower()}). The last line of its log says how to resume the sweep")
    return Ended(lambda: {"action": "stop", "id": id_, "status": status.lower()})


ABOUT_JOBS: dict[str, Callable[[JobSettings], Ended]] = {"jobs": list_jobs, "logs": logs, "stop": stop}


def act(words: Sequence[str]) -> int:
    """Submit, or one of the three words about jobs."""
    if not words:
        raise InputError(
            "a sweep or a word about jobs is needed: python -m tune_app.submit family=seesaw, jobs, logs, stop"
        )
    with as_ours():
        if words[0] in ABOUT_JOBS:
            # cluster.token_path=… as token_path=…: a person, and our messages, write it so for a sweep.
            meant = [re.sub(r"^cluster\.(?=(address|token_path)=)", "", word) for word in words[1:]]
            settings = read_words(JobSettings, meant, f"python -m tune_app.submit {words[0]}")
            return told("submit", settings.format, lambda: ABOUT_JOBS[words[0]](settings))
        close = difflib.get_close_matches(words[0], ABOUT_JOBS, n=1) if words[0].isalpha() else []
        if close:
            raise InputError(
                f"{words[0]}: did you mean {close[0]}? Choices: {', '.join(ABOUT_JOBS)}, or a sweep's settings"
            )
        return submit(words)


def main() -> None:
    sys.exit(exit_code(lambda: act(sys.argv[1:])))


if __name__ == "__main__":
    main()
