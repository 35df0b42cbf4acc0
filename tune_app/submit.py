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
from tune_app.errors import InputError
from tune_app.ray_adapters.remote import as_ours, found, plain
from tune_app.settings.command_line import compose, exit_code
from tune_app.settings.schema import ClusterSettings, Settings
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

    def connection(self) -> Connection:
        return found(ClusterSettings(name=self.cluster, address=self.address, token_path=self.token_path))

    def required_id(self) -> str:
        if not self.id:
            raise InputError("id= is needed: python -m tune_app.submit jobs lists the jobs")
        return self.id


def submit(words: Sequence[str]) -> int:
    """Check the words as `run` would, and submit them. Raises InputError before anything is sent."""
    composed = compose("run", Settings, words)
    if composed is None:
        return 0
    refuse_elsewhere(composed)
    where, words = composed.settings.cluster, plain(composed.overrides)
    if not where.remote:
        where, words = replace(where, name=DEFAULT_CLUSTER), [*words, f"cluster.name={DEFAULT_CLUSTER}"]
    id_ = jobs.submit(found(where), "tune_app.run", words)
    print(f"job        {id_}")
    print(f"next       python -m tune_app.submit logs id={id_} follow=true")
    print(f"           python -m tune_app.submit stop id={id_}")
    return 0


def list_jobs(settings: JobSettings) -> int:
    print("\n".join(jobs.listing(settings.connection(), columns())) or "no jobs")
    return 0


def logs(settings: JobSettings) -> int:
    id_, connection = settings.required_id(), settings.connection()
    text = jobs.log_of(connection, id_)
    if settings.follow:
        return jobs.follow(connection, id_)
    print(text, end="")
    return 0


def stop(settings: JobSettings) -> int:
    id_ = settings.required_id()
    status = jobs.stop(settings.connection(), id_)
    print(f"job {id_} has ended ({status.lower()}). The last line of its log says how to resume the sweep")
    return 0


ABOUT_JOBS: dict[str, Callable[[JobSettings], int]] = {"jobs": list_jobs, "logs": logs, "stop": stop}


def act(words: Sequence[str]) -> int:
    """Submit, or one of the three words about jobs."""
    if not words:
        raise InputError(
            "a sweep or a word about jobs is needed: python -m tune_app.submit family=seesaw, jobs, logs, stop"
        )
    with as_ours():
        if words[0] in ABOUT_JOBS:
            # cluster.token_path=… as token_path=…: a person, and our messages, write it so for a sweep.
            told = [re.sub(r"^cluster\.(?=(address|token_path)=)", "", word) for word in words[1:]]
            return ABOUT_JOBS[words[0]](read_words(JobSettings, told, f"python -m tune_app.submit {words[0]}"))
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
