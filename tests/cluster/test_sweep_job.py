"""What sweep.sbatch decides before and after a sweep; the sweep itself is in test_sweep_in_allocation.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_app.errors import RunFailed
from tune_app.sweep_job import epochs_of, refuse_standstill, words_of_job


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_APP_SETTINGS", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path))


def test_the_first_start_names_the_sweep_and_the_next_resumes_it(tmp_path: Path) -> None:
    words = ["family=tversky", "trainer.epochs=3", "resources.gpus_per_trial=0.5"]
    assert words_of_job(words, "17") == [*words, "name=job-17_tversky"]
    (tmp_path / "job-17_tversky").mkdir()
    assert words_of_job(words, "17")[-1] == "name=job-17_tversky", "nothing in it yet"
    (tmp_path / "job-17_tversky" / "sweep.yaml").touch()
    assert words_of_job(words, "17") == ["resume=job-17_tversky", "resources.gpus_per_trial=0.5"]
    assert words_of_job(words, "18") == [*words, "name=job-18_tversky"]


def test_a_name_and_a_folder_of_the_persons_own(tmp_path: Path) -> None:
    words = ["family=seesaw", "name=mine", f"results_dir={tmp_path}/deep"]
    assert words_of_job(words, "17") == words
    (tmp_path / "deep" / "mine").mkdir(parents=True)
    (tmp_path / "deep" / "mine" / "sweep.yaml").touch()
    assert words_of_job(words, "17") == ["resume=mine", f"results_dir={tmp_path}/deep"]
    assert words_of_job(["resume=other"], "17") == ["resume=other"]


def test_a_sweep_that_stands_still_is_not_requeued_for_ever(tmp_path: Path) -> None:
    note = tmp_path / "epochs.json"
    for epochs in (0, 0, 0, 5, 5, 5):
        refuse_standstill(note, epochs)
    with pytest.raises(RunFailed, match="3 starts in a row finished no epoch"):
        refuse_standstill(note, 5)
    refuse_standstill(note, 6)


def test_epochs_are_counted_in_the_sweep_folder(tmp_path: Path) -> None:
    for trial, rows in (("a", 2), ("b", 3)):
        (tmp_path / "mine" / "trials" / trial).mkdir(parents=True)
        (tmp_path / "mine" / "trials" / trial / "history.jsonl").write_text("{}\n" * rows)
    assert epochs_of(["name=mine"]) == epochs_of(["resume=mine"]) == 5
