"""What the driver lets go of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune import ExperimentAnalysis
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.trainable.metadata import _TrainingRunMetadata
from ray.tune.utils.callback import _create_default_callbacks

from tune_app.ray_adapters.loggers import ForgetEnded, NoProgress
from tune_app.ray_adapters.patches import nothing_read_back, own_staging


def reported() -> Any:
    """A trial of Ray's that has reported a hundred figures."""
    metadata = _TrainingRunMetadata()
    for figure in range(100):
        metadata.update_metric(f"figure/{figure}", 0.5, step=1)
    metadata.last_result = {f"figure/{figure}": 0.5 for figure in range(100)}
    return SimpleNamespace(run_metadata=metadata)


@pytest.mark.parametrize("how", ["on_trial_complete", "on_trial_error"])
def test_a_trial_that_has_ended_is_forgotten(how):
    trial = reported()
    before = len(trial.run_metadata.get_json_state())
    getattr(ForgetEnded(), how)(0, [trial], trial)
    assert trial.run_metadata.metric_analysis == trial.run_metadata.metric_n_steps == {}
    assert len(trial.run_metadata.get_json_state()) < before / 50, "and what Ray had written of it is made anew"


def test_ray_adds_no_reporter_of_its_own(monkeypatch):
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    callbacks = _create_default_callbacks([NoProgress()])
    assert [type(callback) for callback in callbacks if isinstance(callback, TrialProgressCallback)] == [NoProgress]


def test_rays_reader_is_put_back():
    original = ExperimentAnalysis._fetch_trial_dataframes
    with nothing_read_back():
        assert ExperimentAnalysis._fetch_trial_dataframes(None) == {}
    assert ExperimentAnalysis._fetch_trial_dataframes is original
    with pytest.raises(ZeroDivisionError), nothing_read_back():
        1 / 0  # noqa: B018
    assert ExperimentAnalysis._fetch_trial_dataframes is original


def test_searches_begun_in_the_same_second_stage_their_files_apart(monkeypatch, tmp_path):
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: "/session")
    monkeypatch.setattr("ray.tune.utils.date_str", lambda: "2026-11-29_12-00-00")
    with own_staging():
        first, second = (StorageContext(str(tmp_path / name), "trials") for name in "ab")
    folders = {storage.experiment_driver_staging_path for storage in (first, second)}
    assert len(folders) == 2
    assert all(folder.startswith("/session/2026-11-29_12-00-00_") for folder in folders)
    assert StorageContext(str(tmp_path), "trials")._timestamp == "2026-11-29_12-00-00"
