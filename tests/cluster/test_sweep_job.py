"""What sweep.sbatch decides before and after a sweep; the sweep itself is in test_sweep_in_allocation.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_app.errors import InputError, RunFailed
from tune_app.settings.command_line import compose
from tune_app.settings.schema import RunSettings, Settings
from tune_app.sweep.slurm_job import Begun, epochs_of, first_start, refuse_standstill, words_of_start


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    monkeypatch.setenv("TUNE_APP_RESULTS", str(tmp_path))


def settings_of(words: list[str]) -> Settings:
    composed = compose("run", RunSettings, words)
    assert composed is not None
    return composed.settings


def begun(words: list[str], job_id: str = "17") -> Begun:
    return first_start(settings_of(words), job_id)


def given(words: list[str], start: Begun) -> list[str]:
    return words_of_start(words, settings_of(words), start)


def sweep_in(folder: Path, settings: str = "family: seesaw") -> Path:
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(settings)
    return folder


def test_the_first_start_names_the_sweep_and_the_next_resumes_it(tmp_path: Path) -> None:
    words = ["family=tversky", "trainer.epochs=3", "resources.gpus_per_trial=0.5", "notify.command=true", "live=true"]
    start = begun(words)
    assert given(words, start) == [*words, "name=job-17_tversky"]
    (tmp_path / "job-17_tversky").mkdir()
    assert given(words, start)[-1] == "name=job-17_tversky", "nothing in it yet"
    (tmp_path / "job-17_tversky" / "sweep.yaml").touch()
    told_again = ["resources.gpus_per_trial=0.5", "notify.command=true", "live=true"]
    assert given(words, start) == [f"resume={tmp_path}/job-17_tversky", *told_again]
    assert given(words, begun(words, "18")) == [*words, "name=job-18_tversky"]


def test_a_name_and_a_folder_of_the_persons_own(tmp_path: Path) -> None:
    words = ["family=seesaw", "name=mine", f"results_dir={tmp_path}/deep"]
    assert given(words, begun(words)) == words
    folder = sweep_in(tmp_path / "deep" / "mine")
    assert given(words, begun(words)) == [f"resume={folder}", f"results_dir={tmp_path}/deep"]


@pytest.mark.parametrize("named", ["latest", "mine"])
def test_a_job_stays_with_the_sweep_that_it_resumed_first(tmp_path: Path, named: str) -> None:
    folder, words = sweep_in(tmp_path / "mine"), [f"resume={named}", "checkpoints.max_number=3"]
    start = begun(words)
    sweep_in(tmp_path / "newer")
    assert given(words, start) == [f"resume={folder}", "checkpoints.max_number=3"]
    (folder / "trials" / "a").mkdir(parents=True)
    (folder / "trials" / "a" / "history.jsonl").write_text("{}\n" * 5)
    assert epochs_of(Path(start.folder)) == 5, "those of the folder, not of one that is called latest"


def test_a_sweep_is_extended_once_and_then_resumed(tmp_path: Path) -> None:
    folder, words = sweep_in(tmp_path / "mine"), ["extend=latest", "search.num_samples=4", "cluster.dashboard=false"]
    start = begun(words)
    extending = [f"extend={folder}", *words[1:]]
    assert given(words, start) == extending == given(words, start), "killed before it was extended: again"
    (folder / "sweep.yaml").write_text("search: {num_samples: 7}")
    assert given(words, start) == [f"resume={folder}", "cluster.dashboard=false"]


def test_there_must_be_a_sweep_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="extend=other: does not exist"):
        begun(["extend=other"])


def test_a_sweep_that_stands_still_is_not_requeued_for_ever(tmp_path: Path) -> None:
    note = tmp_path / "epochs.json"
    for epochs in (0, 0, 0, 5, 5, 5):
        refuse_standstill(note, epochs)
    with pytest.raises(RunFailed, match="3 starts in a row finished no epoch"):
        refuse_standstill(note, 5)
    refuse_standstill(note, 6)
