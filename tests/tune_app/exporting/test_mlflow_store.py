"""export to=mlflow: MLflow's own client finds runs, curves, scores and files of a sweep."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import checked_end
from filelock import FileLock
from sweep_folder import WrittenTrial, write_sweep

from trainables.errors import SettingsError
from tune_app.errors import InputError
from tune_app.exporting import mlflow_store
from tune_app.exporting.export import ExportSettings, export_and_print
from tune_app.exporting.mlflow_store import QUIET, environment, metric_name
from tune_app.results.folders import LOCK

BEST = WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5), (0.8, 0.6)], params={"p": 0.8}, seed=4)
STOPPED = WrittenTrial(label="seesaw_p1.9", dice=[(0.4, 0.2)], status="stopped early", params={"p": 1.9})
BROKEN = WrittenTrial(label="seesaw_p1.1", dice=[(0.4, 0.2), (float("nan"), 0.2)], status="failed: nan")
WAITING = WrittenTrial(label="seesaw_p0.1", status="waiting")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sweep(tmp_path / "results" / "wide", [STOPPED, BEST, BROKEN, WAITING])


@pytest.fixture
def client(sweep: Path) -> Iterator[Any]:
    """MLflow's, on the store that the test writes."""
    with environment(QUIET):
        from mlflow.tracking import MlflowClient

        yield MlflowClient(tracking_uri=(sweep.parents[1] / "store").as_uri())


def written(sweep: Path, **more: Any) -> dict[str, Any]:
    settings = ExportSettings(sweep=str(sweep), to="mlflow", out="store", **{"top": 1} | more)
    return checked_end("export", export_and_print(settings))


def test_the_client_finds_the_sweep_and_its_trials(sweep: Path, client: Any) -> None:
    told = written(sweep)
    experiment = client.get_experiment_by_name("wide")
    assert (told["experiment"], told["runs"]) == (experiment.experiment_id, 4)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"wide", "0000_seesaw_p1.9", "0001_seesaw_p0.8", "0002_seesaw_p1.1"}
    parent, best = runs["wide"], runs["0001_seesaw_p0.8"]
    assert parent.info.status == best.info.status == runs["0000_seesaw_p1.9"].info.status == "FINISHED"
    assert runs["0002_seesaw_p1.1"].info.status == "FAILED"
    assert parent.data.metrics["best/mean_dice"] == pytest.approx(0.7)
    assert best.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert best.data.tags["tune_app.rank"] == "1"
    assert "not finite" in runs["0002_seesaw_p1.1"].data.tags["tune_app.reason"]
    assert (best.data.params["loss.params.p"], best.data.params["seed"]) == ("0.8", "4")
    curve = client.get_metric_history(best.info.run_id, "dice/nuc")
    assert [(point.step, point.value) for point in curve] == [(1, 0.5), (2, 0.8)]
    assert curve[1].timestamp - curve[0].timestamp == 30_000, "the seconds of an epoch"
    broken = client.get_metric_history(runs["0002_seesaw_p1.1"].info.run_id, "mean_dice")
    assert [point.step for point in broken] == [1], "NaN is left out"
    files = {name: {file.path for file in client.list_artifacts(run.info.run_id)} for name, run in runs.items()}
    assert files["wide"] == {"manifest.json", "sweep.yaml"}
    assert files["0001_seesaw_p0.8"] == {"config.json", "history.jsonl", "validation.npz", "best.pt"}
    assert "best.pt" not in files["0000_seesaw_p1.9"], "top=1"
    history = client.download_artifacts(best.info.run_id, "history.jsonl")
    assert Path(history).read_bytes() == (sweep / "trials" / "0001_seesaw_p0.8" / "history.jsonl").read_bytes()


def test_what_is_there_is_replaced_where_it_is_half_or_asked_for(
    sweep: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(mlflow_store, "curves", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            written(sweep)
    first = written(sweep)["experiment"]
    with pytest.raises(InputError, match=r"has an experiment wide already\. overwrite=true"):
        written(sweep)
    written(write_sweep(sweep.with_name("other"), [BEST]))
    assert written(sweep, overwrite=True)["experiment"] != first
    assert {found.name for found in client.search_experiments()} == {"Default", "wide", "other"}
    client.create_experiment("mine")
    with pytest.raises(InputError, match="made by something else"):
        written(write_sweep(sweep.with_name("mine"), [BEST]), overwrite=True)


def test_what_is_refused(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileLock(sweep / LOCK), pytest.raises(InputError, match="is still running"):
        written(sweep)
    Path("store").mkdir()
    Path("store/thesis.tex").touch()
    with pytest.raises(InputError, match="no MLflow store"):
        written(sweep)
    with pytest.raises(SettingsError, match="epoch=3"):
        ExportSettings(to="mlflow", epoch=3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install mlflow-skinny"):
        written(sweep)


@pytest.mark.parametrize(
    ("name", "stored"), [("dice/nuc", "dice/nuc"), ("loss/nuc", "loss.nuc"), ("loss", "loss"), ("a(x)", "a_x_")]
)
def test_a_figure_below_another_one_is_written_with_a_dot(name: str, stored: str) -> None:
    assert metric_name(name, {"loss", "loss/nuc", "dice/nuc"}) == stored
