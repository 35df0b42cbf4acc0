"""Ray's logs lie in the sweep folder, and a restarted trial appends to them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from planned import ray_trial, study_of_one
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainables.files import drop_torn_line
from tune_app.ray_adapters.loggers import in_place_loggers
from tune_app.results.trial import GIVEN_UP, was_given_up

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def row(epoch: int) -> dict:
    return {"epoch": epoch, "training_iteration": epoch, "mean_dice": epoch / 10, "dice/nuc": 0.5, "diagnosis": ""}


def run_epochs(folder: Path, epochs: range, *, ends: bool = True) -> None:
    """A driver that starts the trial, hears of these epochs, and ends or is killed."""
    loggers, trial = in_place_loggers(study_of_one()), ray_trial(folder)
    for logger in loggers:
        logger.log_trial_start(trial)
    for epoch in epochs:
        for logger in loggers:
            logger.log_trial_result(0, trial, row(epoch))
    if ends:
        for logger in loggers:
            logger.log_trial_end(trial)
    else:  # what a killed process does: its files are closed, nothing more is written
        for logger in loggers[:2]:
            for file in logger._logger._trial_files.values():
                file.close()
        for writer in loggers[2]._logger._files.values():
            writer.close()


def epochs_in(folder: Path) -> tuple[list[int], list[int]]:
    """Epochs in result.json and in progress.csv, each line of which must be readable."""
    lines = (folder / "result.json").read_text().splitlines()
    with (folder / "progress.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["mean_dice"]) for line in table] == [int(line["epoch"]) / 10 for line in table]
    return [json.loads(line)["epoch"] for line in lines], [int(line["epoch"]) for line in table]


def test_errors_are_there_at_once_and_say_whether_the_trial_was_given_up(tmp_path):
    """Ray copies its own file to the same place again later."""
    trial, (*_, notes) = ray_trial(tmp_path), in_place_loggers(study_of_one())
    trial.error_file, copied = tmp_path / "ray_error.txt", tmp_path / "0000_arm" / "error.txt"
    copied.parent.mkdir(exist_ok=True)
    trial.error_file.write_text("Failure # 1\nlost\n")
    notes.on_trial_recover(0, [trial], trial)
    assert copied.read_text() == "Failure # 1\nlost\n"
    assert not was_given_up(copied.parent)
    with trial.error_file.open("a") as file:
        file.write("Failure # 2\nlost\n")
    notes.on_trial_error(0, [trial], trial)
    assert copied.read_text() == trial.error_file.read_text() == f"Failure # 1\nlost\nFailure # 2\nlost\n{GIVEN_UP}\n"
    assert was_given_up(copied.parent)


def test_a_new_trial_gets_its_folder_and_all_logs(tmp_path):
    run_epochs(tmp_path, range(1, 4))
    folder = tmp_path / "0000_arm"
    assert epochs_in(folder) == ([1, 2, 3], [1, 2, 3])
    assert json.loads((folder / "params.json").read_text())["loss"] == {"name": "seesaw"}
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("dice/mean")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("dice/mean")] == pytest.approx([0.1, 0.2, 0.3])


def test_a_restarted_trial_appends(tmp_path):
    run_epochs(tmp_path, range(1, 3), ends=False)
    run_epochs(tmp_path, range(3, 5))
    folder = tmp_path / "0000_arm"
    assert epochs_in(folder) == ([1, 2, 3, 4], [1, 2, 3, 4])
    steps = [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("dice/mean")]
    assert set(steps) >= {3, 4}


def test_lines_torn_by_a_crash_do_not_spoil_what_follows(tmp_path):
    run_epochs(tmp_path, range(1, 3), ends=False)
    folder = tmp_path / "0000_arm"
    for name, torn in (("result.json", '{"epoch": 3, "mean'), ("progress.csv", "3,3,0.")):
        with (folder / name).open("a") as file:
            file.write(torn)
    run_epochs(tmp_path, range(3, 5))
    assert epochs_in(folder) == ([1, 2, 3, 4], [1, 2, 3, 4])


def test_a_retried_trial_of_one_driver_appends(tmp_path):
    """Ray starts a trial whose worker died again: start is called twice, end once."""
    loggers, trial = in_place_loggers(study_of_one()), ray_trial(tmp_path)
    for epoch in (1, 2):
        for logger in loggers:
            logger.log_trial_start(trial)
            logger.log_trial_result(0, trial, row(epoch))
    for logger in loggers:
        logger.log_trial_end(trial)
    assert epochs_in(tmp_path / "0000_arm") == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"a", b""), (b"a\r\n1,2", b"a\r\n"), (b"\xff\xfe", b"")],
)
def test_a_torn_line_is_dropped(tmp_path, before, after):
    path = tmp_path / "log"
    path.write_bytes(before)
    drop_torn_line(path)
    assert path.read_bytes() == after
    drop_torn_line(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
