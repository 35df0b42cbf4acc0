"""The sweep's side of a Ray cluster that was there before it: found, attached to, or handed the sweep as a job."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cluster.connect import Connection, connect
from cluster.errors import ClusterError, ClusterInputError
from tune_app.config import ClusterSettings
from tune_app.errors import InputError, RunFailed


def found(settings: ClusterSettings) -> Connection:
    """The cluster of `cluster=` or `cluster.address=`, checked. Raises InputError within ten seconds."""
    try:
        return connect(settings.name, settings.address, settings.token_path)
    except ClusterInputError as error:
        raise InputError(str(error)) from None
    except ClusterError as error:
        raise RunFailed(str(error)) from None


def use_token(connection: Connection) -> None:
    """Make this process, and what it starts, a client of the cluster."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(connection.token)
    os.environ.pop("RAY_AUTH_TOKEN", None)


def run_there(connection: Connection, words: Sequence[str]) -> int:
    """Submit `python -m tune_app.run WORDS` as a job and follow it; its exit code. Ctrl-C detaches."""
    from cluster import jobs

    id_ = jobs.submit(connection, "tune_app.run", words)
    print(f"this machine is no node of the cluster, so the sweep runs there as job {id_}; Ctrl-C detaches", flush=True)
    return jobs.follow(connection, id_)


def plain(words: Sequence[str]) -> list[str]:
    """Overrides as a person types them: Hydra keeps `space.p=…` with a ++ before it."""
    return [word.removeprefix("++") for word in words]
