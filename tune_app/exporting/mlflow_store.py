"""export to=mlflow: a sweep as an experiment of an MLflow store of files, by MLflow's own client. See docs/mlflow.md.

A run for the sweep, with its settings and files, and below it a run per trial: config, every figure of every epoch, the
score, what it was stopped or failed for, files.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import flatten
from trainables.calibration import CALIBRATED
from tune_app.errors import InputError, written
from tune_app.results.finding import CONFIRMATION, read_confirmation
from tune_app.results.manifest import MANIFEST
from tune_app.results.sweep import Sweep
from tune_app.results.trial import Trial, is_finite
from tune_app.settings.document import to_plain

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NEEDS = "mlflow"
QUIET = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""A store of files is in maintenance mode, and refused without the first; the others keep it off the network."""
BATCH = 100
"""Parameters or metrics that the client takes at once."""
SWEEP_FILES = (MANIFEST, "sweep.yaml", "class_frequencies.json", "plan.json", CONFIRMATION, "report.html")
TRIAL_FILES = ("config.json", "history.jsonl", "count_updates.jsonl", "validation.npz", "prediction.npz", "error.txt")
WEIGHTS = "best.pt"
STATES = {"finished": "FINISHED", "stopped early": "FINISHED", "running": "RUNNING", "interrupted": "KILLED"}
"""MLflow's words for ours; FAILED for the rest."""
WHOLE, OURS = "tune_app.whole", "tune_app.sweep"
"""Tags of an experiment: whether all of the sweep is in it, and which one."""


def export_to_mlflow(sweep: Sweep, out: Path, *, top: int, overwrite: bool) -> tuple[str, int]:
    """Write the sweep into the store `out`; (id of the experiment, number of runs). top: trials whose weights go along.

    Raises InputError before anything is written: no client, a sweep that runs, a store that has the sweep already. What
    an export that was killed has left of it is replaced.
    """
    if importlib.util.find_spec(NEEDS) is None:
        raise InputError("to=mlflow: MLflow's client is not installed. Install it: pip install mlflow-skinny")
    if sweep.status == "running":
        raise InputError(f"sweep={sweep.name}: is still running. Wait for its end, then export it")
    if out.exists() and not (out.is_dir() and ((out / "0").is_dir() or not any(out.iterdir()))):
        raise InputError(f"out={out}: exists and is no MLflow store of files. Choose another folder")
    with written(f"out={out}", "Choose another folder"), environment(QUIET):
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient(tracking_uri=out.absolute().as_uri())
            clear_up(client, sweep, out, overwrite=overwrite)
            experiment = client.create_experiment(sweep.name, tags={OURS: sweep.name, WHOLE: "false"})
            runs = write_runs(client, experiment, sweep, top)
            client.set_experiment_tag(experiment, WHOLE, "true")
        except MlflowException as error:
            raise InputError(f"out={out}: MLflow cannot write there ({error}). Choose another folder") from None
    return str(experiment), runs


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within it, these variables are set."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def clear_up(client: MlflowClient, sweep: Sweep, out: Path, *, overwrite: bool) -> None:
    """Remove what is there of the sweep where that is half of it, or to be overwritten. Else InputError."""
    there = client.get_experiment_by_name(sweep.name)
    if there is None:
        return
    whole = there.tags.get(WHOLE) != "false"
    if OURS not in there.tags or (whole and not overwrite):
        what = "overwrite=true replaces it, or" if OURS in there.tags else "It was made by something else:"
        raise InputError(f"out={out}: has an experiment {sweep.name} already. {what} choose another folder")
    shutil.rmtree(out / there.experiment_id)


def write_runs(client: MlflowClient, experiment: str, sweep: Sweep, top: int) -> int:
    """The run of the sweep, and one for each trial that has begun."""
    found, board = read_confirmation(sweep.folder), sweep.leaderboard().set_index("name")
    created = milliseconds(sweep.manifest.get("created"))
    tags = {"mlflow.runName": sweep.name, "tune_app.status": sweep.status, "tune_app.winner": found.get("winner")}
    ranked = board.index[board["rank"].notna()]
    best = [sweep.trial(name) for name in ranked[:1]]
    parent = write_run(
        client,
        experiment,
        begun=created,
        status=STATES.get(sweep.status, "KILLED"),
        tags=tags | commit_of(sweep),
        params=sweep.settings,
        metrics=[(f"best/{sweep.metric}", trial.score(sweep.metric), created, 0) for trial in best],
        files=[sweep.folder / name for name in SWEEP_FILES],
        ended=max((ended(trial) for trial in sweep.trials), default=created),
    )
    begun = [trial for trial in sweep.trials if trial.folder.is_dir()]
    for trial in begun:
        row = board.loc[trial.name]
        own = {
            "mlflow.runName": trial.name,
            "mlflow.parentRunId": parent,
            **{f"tune_app.{name}": row[name] for name in ("rank", "status", "reason", "diagnoses", "family", "preset")},
            **{f"tune_app.{name}": row[name] for name in ("arm", "baseline", "seed", "best_epoch")},
        }
        kept = (*TRIAL_FILES, *([WEIGHTS] if trial.name in ranked[:top] else []))
        write_run(
            client,
            experiment,
            begun=start_of(trial, created),
            status=STATES.get(trial.status, "FAILED"),
            tags=own | commit_of(sweep),
            params={name: value for name, value in trial.config.items() if name != "run"} | {"point": trial.params},
            metrics=[*curves(trial, start_of(trial, created)), *scores(trial, ended(trial))],
            files=[trial.folder / name for name in kept],
            ended=ended(trial),
        )
    return 1 + len(begun)


def write_run(
    client: MlflowClient,
    experiment: str,
    *,
    begun: int,
    ended: int,
    status: str,
    tags: Mapping[str, Any],
    params: Mapping[str, Any],
    metrics: Sequence[tuple[str, float, int, int]],
    files: Sequence[Path],
) -> str:
    """One run; its id. metrics: name, value, milliseconds since 1970, epoch. Files that are not there are left out."""
    from mlflow.entities import Metric, Param

    told = {name: str(value) for name, value in to_plain(tags).items() if value is not None}
    run = str(client.create_run(experiment, start_time=begun, tags=told).info.run_id)
    flat = [Param(allowed(name), str(value)) for name, value in flatten(params).items()]
    for start in range(0, len(flat), BATCH):
        client.log_batch(run, params=flat[start : start + BATCH])
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run, metrics=[Metric(*row) for row in metrics[start : start + BATCH]])
    for path in files:
        if path.is_file():
            client.log_artifact(run, str(path))
    client.set_terminated(run, status=status, end_time=max(begun, ended))
    return run


def curves(trial: Trial, begun: int) -> Iterator[tuple[str, float, int, int]]:
    """Every finite figure of every epoch, at the time at which the epoch ended as far as its seconds tell."""
    names = {name for row in trial.history for name, value in row.items() if is_finite(value)} - {"epoch"}
    seconds = 0.0
    for row in trial.history:
        seconds += row["seconds_epoch"] if is_finite(row.get("seconds_epoch")) else 0.0
        for name in sorted(names):
            if is_finite(row.get(name)):
                yield metric_name(name, names), float(row[name]), begun + round(1000 * seconds), int(row["epoch"])


def metric_name(name: str, names: set[str]) -> str:
    """loss/nuc as loss.nuc where `loss` is a figure, too: a store of files keeps a figure in a file of its name."""
    parts = name.split("/")
    inside = any("/".join(parts[:end]) in names for end in range(1, len(parts)))
    return allowed(name.replace("/", ".") if inside else name)


def allowed(name: str) -> str:
    """MLflow takes letters, digits, and _ - . : / and the blank in a name."""
    return re.sub(r"[^\w\-.:/ ]", "_", name)


def scores(trial: Trial, when: int) -> Iterator[tuple[str, float, int, int]]:
    """best/FIGURE: what the trial is judged by, at its best epoch."""
    for name in (*trial.objective.figures, CALIBRATED) if trial.best else ():
        if is_finite(trial.score(name)):
            yield allowed(f"best/{name.replace('/', '.')}"), trial.score(name), when, int(trial.best["epoch"])


def commit_of(sweep: Sweep) -> dict[str, Any]:
    return {"mlflow.source.git.commit": (sweep.manifest.get("git") or {}).get("commit")}


def milliseconds(written: Any) -> int:
    """Of a time in ISO 8601; 0 where it is none."""
    try:
        return round(1000 * datetime.fromisoformat(str(written)).timestamp())
    except ValueError:
        return 0


def start_of(trial: Trial, otherwise: int) -> int:
    """When its config was written, milliseconds since 1970."""
    path = trial.folder / "config.json"
    return round(1000 * path.stat().st_mtime) if path.is_file() else otherwise


def ended(trial: Trial) -> int:
    """When its last epoch was written, milliseconds since 1970; 0 before the first."""
    path = trial.folder / "history.jsonl"
    return round(1000 * path.stat().st_mtime) if path.is_file() else 0
