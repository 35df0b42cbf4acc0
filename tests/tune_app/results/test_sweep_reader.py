"""The reader of a sweep folder: running, crashed and finished sweeps, damaged files, arms and noise."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from sweep_folder import WrittenTrial, add_to_study, history_row, open_study, write_sweep, write_trial

from trainables.objective import Objective
from trainables.trial_folder import json_line
from tune_app.errors import InputError, RunFailed, TuneAppError
from tune_app.results.folders import is_half_made, sweep_folders
from tune_app.results.manifest import (
    build_manifest,
    git_revision,
    read_manifest,
    set_status,
    settings_hash,
    write_manifest,
)
from tune_app.results.sweep import Sweep
from tune_app.results.trial import read_rows
from tune_app.sweep.folder import locked

NAN = math.nan
GOOD = WrittenTrial(label="seesaw_default", preset="seesaw_default", dice=[(0.5, 0.5), (0.8, 0.6), (0.7, 0.5)])
WORSE = WrittenTrial(label="seesaw_p0.3", dice=[(0.4, 0.2)], status="stopped early", params={"p": 0.3})
BROKEN = WrittenTrial(label="seesaw_p1.9", dice=[(0.9, 0.9), (NAN, NAN)], status="failed: nan", params={"p": 1.9})
ERROR = WrittenTrial(label="seesaw_p1.5", dice=[(0.9, 0.9)], status="failed: error")
RUNNING = WrittenTrial(label="seesaw_p0.6", dice=[(0.9, 0.3)], status="running")
WAITING = WrittenTrial(label="seesaw_p0.7", status="waiting")


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_leaderboard_scores_the_best_epoch_and_ranks(tmp_path: Path) -> None:
    sweep = Sweep(write_sweep(tmp_path / "a", [WORSE, BROKEN, GOOD, ERROR]))
    board = sweep.leaderboard()
    assert board["name"].tolist() == ["0002_seesaw_default", "0000_seesaw_p0.3", "0001_seesaw_p1.9", "0003_seesaw_p1.5"]
    assert board["rank"].tolist()[:2] == [1, 2]
    assert board["rank"].isna().tolist() == [False, False, True, True]
    first = board.iloc[0]
    assert first["mean_dice"] == pytest.approx(0.7)
    assert (first["dice/nuc"], first["dice/pm"]) == (0.8, 0.6)
    assert (first["best_epoch"], first["epochs"], first["minutes"]) == (2, 3, 1.5)
    assert first["preset"] == "seesaw_default"
    assert board["status"].tolist() == ["finished", "stopped early", "failed: nan", "failed: error"]
    assert board["reason"].tolist()[2:] == [
        "nan: the loss is not finite at epoch 2, gradient norm nan",
        "out_of_memory: RuntimeError: out of memory",
    ]
    assert board["diagnoses"].tolist() == ["", "", "nan", "out_of_memory"]
    assert board.loc[1, "param/p"] == 0.3


def test_leaderboard_by_a_class_keeps_the_best_epoch_of_the_metric(tmp_path: Path) -> None:
    other = WrittenTrial(label="b", dice=[(0.9, 0.1), (0.3, 0.9)])
    sweep = Sweep(write_sweep(tmp_path / "a", [GOOD, other]))
    board = sweep.leaderboard(by="pm")
    assert board["name"].tolist() == ["0001_b", "0000_seesaw_default"]
    assert board["dice/nuc"].tolist() == [0.3, 0.8]
    assert "mean_iou" in sweep.leaderboard(by="mean_iou")
    with pytest.raises(InputError, match=r"by=minutes.*Choices: mean_dice"):
        sweep.leaderboard(by="minutes")


def test_equal_scores_keep_the_order_of_their_numbers(tmp_path: Path) -> None:
    same = [WrittenTrial(label=label, dice=[(0.5, 0.5)]) for label in "cab"]
    assert Sweep(write_sweep(tmp_path / "a", same)).leaderboard()["number"].tolist() == [0, 1, 2]


def test_history_has_every_epoch_of_every_trial(tmp_path: Path) -> None:
    history = Sweep(write_sweep(tmp_path / "a", [GOOD, BROKEN])).history()
    assert history["epoch"].tolist() == [1, 2, 3, 1, 2]
    assert history.loc[history["name"] == "0000_seesaw_default", "dice/nuc"].tolist() == [0.5, 0.8, 0.7]
    assert math.isnan(history.iloc[-1]["mean_dice"])


def test_reading_never_writes(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, RUNNING, WAITING], status="running")
    (folder / "sweep.lock").touch()
    before = tree(tmp_path)
    sweep = Sweep("latest", tmp_path)
    sweep.leaderboard(), sweep.history(), sweep.arms(), sweep.families(), sweep.best_per_class()
    assert tree(tmp_path) == before
    (folder / "study.journal").unlink()
    sweep.refresh()
    assert not (folder / "study.journal").exists()


def test_status_follows_the_lock_and_the_manifest(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, RUNNING], status="running")
    with FileLock(folder / "sweep.lock"):
        sweep = Sweep(folder)
        assert sweep.status == "running"
        assert sweep.trials[1].status == "running"
    assert sweep.refresh().status == "crashed"
    assert sweep.trials[1].status == "interrupted"
    for status in ("interrupted", "finished"):
        set_status(folder, status)
        assert sweep.refresh().status == status


@pytest.mark.parametrize(
    ("trials", "status"), [([GOOD, WORSE], "finished"), ([GOOD, RUNNING], "crashed"), ([GOOD, WAITING], "crashed")]
)
def test_status_without_a_record_follows_the_trials(tmp_path: Path, trials: list[WrittenTrial], status: str) -> None:
    assert Sweep(write_sweep(tmp_path / "a", trials, status=None)).status == status


def test_history_survives_damage(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD])
    path = folder / "trials" / "0000_seesaw_default" / "history.jsonl"
    again = json.dumps(history_row(2, (0.9, 0.9))) + "\n"
    path.write_bytes(path.read_bytes() + b"not json\n[1]\n\xff\xfe\n{}\n" + again.encode() + b'{"epoch": 4, "mean_di')
    trial = Sweep(folder).trials[0]
    assert [row["epoch"] for row in trial.history] == [1, 2, 3]
    assert trial.best["mean_dice"] == pytest.approx(0.9)
    assert "(4 at most)" in trial.damage[0]


def test_changed_bytes_are_a_notice_and_no_figure(tmp_path: Path) -> None:
    """Every single byte of a row, changed: to another digit where it is one, so that the line still is JSON."""
    folder = write_sweep(tmp_path / "a", [GOOD])
    trial = folder / "trials" / "0000_seesaw_default"
    rows = [history_row(epoch, dice) for epoch, dice in enumerate(GOOD.dice, start=1)]
    lines = [json_line(row).encode() for row in rows]
    for at in range(len(lines[1]) - 1):
        changed = bytearray(lines[1])
        changed[at] = ord("7") if changed[at] != ord("7") else ord("8")
        (trial / "history.jsonl").write_bytes(lines[0] + changed + lines[2])
        history, damaged = read_rows(trial / "history.jsonl")
        assert ([row["epoch"] for row in history], damaged) == ([1, 3], 1), changed
    assert Sweep(folder).notices == [
        "0000_seesaw_default: history.jsonl is damaged; epochs that it lost (1 at most) are read from result.json"
    ]
    (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Sweep(folder).trials[0].best["mean_dice"] == pytest.approx(0.7)
    (trial / "history.jsonl").write_bytes(b"".join(lines) + lines[0][:20])
    assert read_rows(trial / "history.jsonl") == (tuple(rows), 0), "a row that is being written"
    (trial / "history.jsonl").write_bytes(lines[0] + lines[1][:20])
    cut = Sweep(folder)
    assert cut.trials[0].best["mean_dice"] == pytest.approx(0.7), "of an epoch that only Ray's log has left"
    assert "epochs that it lost (2 at most) are read from result.json" in cut.notices[0]


@pytest.mark.parametrize("content", [None, b"", b'{"loss": ', b'{"seed": "x"}'])
@pytest.mark.parametrize("name", ["manifest.json", "sweep.yaml", "config.json"])
def test_what_a_lost_file_no_longer_says_is_a_notice(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, WORSE])
    assert Sweep(folder).notices == []
    path = next(iter(sorted(folder.rglob(name))))
    path.unlink() if content is None else path.write_bytes(content)
    where = "0000_seesaw_default: " if name == "config.json" else ""
    assert Sweep(folder).notices == [f"{where}{name} is missing or damaged: what it no longer says counts as unknown"]


def test_a_trial_without_its_folder_is_a_notice(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, WORSE])
    shutil.rmtree(folder / "trials" / "0000_seesaw_default")
    sweep = Sweep(folder)
    assert sweep.notices == ["0000_seesaw_default: its folder is gone: only what the study has of it is known"]
    assert sweep.trials[0].best["mean_dice"] == pytest.approx(max(map(np.mean, GOOD.dice)))


def test_missing_files_leave_what_there_is(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, WORSE])
    for name in ("manifest.json", "sweep.yaml", "trials/0000_seesaw_default/config.json"):
        (folder / name).unlink()
    (folder / "trials" / "0001_seesaw_p0.3" / "validation.npz").write_bytes(b"PK\x03\x04 cut")
    sweep = Sweep(folder)
    assert (sweep.name, sweep.classes) == ("a", ("nuc", "pm"))
    assert sweep.leaderboard()["rank"].tolist() == [1, 2]
    assert sweep.trials[1].validation() == {}
    assert sweep.trials[0].validation()["tp"].shape == (3, 2, 2)


def test_a_lost_history_is_read_from_what_was_reported(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD])
    trial = folder / "trials" / "0000_seesaw_default"
    lines = (trial / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"config": {"seed": 0}, "pid": 1} for line in lines]
    (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (trial / "history.jsonl").write_text("")
    sweep = Sweep(folder)
    assert sweep.leaderboard().loc[0, ["best_epoch", "dice/nuc"]].tolist() == [2, 0.8]
    assert not {"config", "pid"} & set(sweep.history())


def test_a_trial_without_its_folder_has_the_curve_of_the_study(tmp_path: Path) -> None:
    lost = WrittenTrial(label="lost", dice=[(0.2, 0.4), (0.4, 0.6)], folder=False)
    board = Sweep(write_sweep(tmp_path / "a", [lost])).leaderboard()
    assert board.loc[0, "mean_dice"] == pytest.approx(0.5)
    assert board.loc[0, "best_epoch"] == 2
    assert math.isnan(board.loc[0, "dice/nuc"])


def test_trials_without_a_study_are_read_from_their_folders(tmp_path: Path) -> None:
    trials = [GOOD, BROKEN, ERROR, WORSE]
    folder = write_sweep(tmp_path / "a", trials)
    (folder / "study.journal").unlink()
    statuses = [trial.status for trial in Sweep(folder).trials]
    assert statuses == ["finished", "failed: nan", "failed: error", "interrupted"]


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "wor', b'{"op_code": 4, "wor\n{"op_code": 4}\n'])
def test_a_damaged_journal_is_read_to_the_damage(tmp_path: Path, tail: bytes) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, WORSE])
    with (folder / "study.journal").open("ab") as journal:
        journal.write(tail)
    sweep = Sweep(folder)
    assert [trial.status for trial in sweep.trials] == ["finished", "stopped early"]
    assert bool(sweep.notices) == tail.endswith(b"\n"), "only damage is worth a notice, not a write in progress"


def test_a_journal_of_nonsense_falls_back_to_the_folders(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD])
    (folder / "study.journal").write_text('{"op_code": 0, "worker_id": "x"}\n')
    sweep = Sweep(folder)
    assert sweep.trials[0].status == "finished"
    assert "damaged" in sweep.notices[0]


ANYTHING = (None, 7, "x", [1, {"a": 2}], {"a": [1]}, math.inf, True)


def every_figure(folder: Path) -> None:
    sweep = Sweep(folder)
    for table in (sweep.leaderboard, sweep.history, sweep.arms, sweep.families, sweep.best_per_class, sweep.diagnoses):
        table()
    assert isinstance(sweep.phantom, bool)
    assert sweep.validated
    assert sweep.status in ("finished", "crashed")
    assert sweep_folders(folder.parent) == [folder]


def test_what_was_edited_by_hand_into_nonsense_counts_as_unknown(tmp_path: Path) -> None:
    """The values of every file and of every section in it, replaced by those of each kind."""
    folder = write_sweep(tmp_path / "a", [GOOD, BROKEN])
    settings = {"data": {"train_on": "train"}, "search": {"num_samples": 2}, "trainer": {"epochs": 3}, "seed": 0}
    (folder / "sweep.yaml").write_text(json.dumps(settings))
    files = [folder / "manifest.json", folder / "sweep.yaml", *folder.glob("trials/0000_*/config.json")]
    assert len(files) == 3
    for path in files:
        whole = json.loads(path.read_text())
        sections = [key for key, value in whole.items() if isinstance(value, dict)]
        for anything in ANYTHING:
            edited = [{key: dict.fromkeys(whole[key], anything)} for key in sections]
            for edit in (dict.fromkeys(whole, anything), *edited):
                path.write_text(json.dumps(whole | edit))
                every_figure(folder)
        path.write_text(json.dumps(whole))


def test_a_trial_edited_by_hand_in_the_journal_is_read_from_its_folder(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD, WORSE])
    journal = folder / "study.journal"
    *lines, last = journal.read_text().splitlines()
    record = json.loads(last)
    for key, anything in itertools.product(record["user_attrs"], ANYTHING):
        journal.write_text("\n".join([*lines, json.dumps({**record, "user_attrs": {"a": 1, key: anything}})]) + "\n")
        every_figure(folder)
    for anything in ANYTHING[1:]:
        journal.write_text("\n".join([*lines, json.dumps({**record, "user_attrs": anything})]) + "\n")
        every_figure(folder)
    seed = {**record["user_attrs"], "seed": "x"}
    journal.write_text("\n".join([*lines, json.dumps({**record, "user_attrs": seed})]) + "\n")
    sweep = Sweep(folder)
    assert [trial.seed for trial in sweep.trials] == [0, 0]
    assert "study.journal is damaged" in sweep.notices[0]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 1500, b"", bytes(9), b"[1]"])
@pytest.mark.parametrize("name", ["manifest.json", "sweep.yaml", "trials/*/config.json", "study.journal"])
def test_a_file_of_other_bytes_counts_as_lost(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD])
    (path,) = folder.glob(name)
    path.write_bytes(content)
    assert [trial.status for trial in Sweep(folder).trials] == ["finished"]
    every_figure(folder)


def test_what_the_damaged_journal_lost_is_read_from_the_folder(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [WrittenTrial(label="x", status="running", dice=GOOD.dice)])
    with (folder / "study.journal").open("ab") as journal:
        journal.write(b"broken\n")
    assert Sweep(folder).trials[0].status == "finished"


def test_an_empty_sweep_has_empty_frames(tmp_path: Path) -> None:
    sweep = Sweep(write_sweep(tmp_path / "a", []))
    assert {"rank", "mean_dice", "dice/nuc", "status"} <= set(sweep.leaderboard().columns)
    for frame in (sweep.leaderboard(), sweep.history(), sweep.arms(), sweep.families(), sweep.best_per_class()):
        assert frame.empty
    assert sweep.noise() is None


def test_best_per_class_ignores_failed_trials(tmp_path: Path) -> None:
    nuc = WrittenTrial(label="nuc_first", dice=[(0.85, 0.2)])
    best = Sweep(write_sweep(tmp_path / "a", [GOOD, BROKEN, nuc])).best_per_class().set_index("class")
    assert best["name"].to_dict() == {"nuc": "0002_nuc_first", "pm": "0000_seesaw_default"}
    assert best["dice"].to_dict() == {"nuc": 0.85, "pm": 0.6}


PUBLISHED_FIVE = {  # One configuration under five names: mean .5361, sd .0127.
    "weight_uniform": 0.5416,
    "weight_effective_num": 0.5459,
    "cb_beta_0.99": 0.5475,
    "cb_beta_0.999": 0.5269,
    "cb_beta_0.9999": 0.5188,
}


def test_noise_of_the_five_published_runs_of_one_configuration(tmp_path: Path) -> None:
    trials = [
        WrittenTrial(label=name, dice=[(score, score)], signature="uniform", seed=seed)
        for seed, (name, score) in enumerate(PUBLISHED_FIVE.items())
    ]
    sweep = Sweep(write_sweep(tmp_path / "a", [*trials, GOOD]))
    arm = sweep.arms().set_index("arm").loc["weight_uniform"]
    assert (arm["trials"], arm["runs"]) == (5, 5)
    assert arm["names"] == sorted(PUBLISHED_FIVE)
    assert arm["mean"] == pytest.approx(0.5361, abs=5e-5)
    assert arm["max"] - arm["min"] == pytest.approx(0.0287)
    noise = sweep.noise()
    assert noise is not None
    assert (noise.dof, noise.arms) == (4, 1)
    assert noise.sd == pytest.approx(0.0127, abs=5e-5)
    assert noise.difference == pytest.approx(0.050, abs=5e-4)
    board = sweep.leaderboard()
    assert board.loc[board["arm"] == "weight_uniform", "arm_trials"].tolist() == [5] * 5


def test_runs_of_one_seed_are_no_repeats(tmp_path: Path) -> None:
    trials = [WrittenTrial(label=label, dice=[(0.5, 0.5)], signature="u", seed=7) for label in "ab"]
    sweep = Sweep(write_sweep(tmp_path / "a", trials))
    assert sweep.arms().loc[0, ["trials", "runs"]].tolist() == [2, 1]
    assert sweep.noise() is None


def test_trials_stopped_early_do_not_count_in_an_arm(tmp_path: Path) -> None:
    full = WrittenTrial(label="x", dice=[(0.6, 0.6)], signature="u", seed=0)
    short = WrittenTrial(label="x", dice=[(0.1, 0.1)], signature="u", seed=1, status="stopped early")
    arm = Sweep(write_sweep(tmp_path / "a", [full, short])).arms().iloc[0]
    assert (arm["trials"], arm["runs"], arm["mean"]) == (2, 1, pytest.approx(0.6))


def test_families_merge_arms(tmp_path: Path) -> None:
    first = WrittenTrial(label="u", family="static", dice=[(0.2, 0.2)], signature="u", seed=0)
    second = WrittenTrial(label="u", family="static", dice=[(0.4, 0.4)], signature="u", seed=1)
    inv = WrittenTrial(label="inv", family="static", dice=[(0.5, 0.5)])
    families = Sweep(write_sweep(tmp_path / "a", [first, second, inv, GOOD])).families().set_index("family")
    assert families.index.tolist() == ["seesaw", "static"]
    row = families.loc["static"]
    assert (row["trials"], row["arms"], row["runs"], row["best_arm"]) == (3, 2, 3, "inv")
    assert row["mean"] == pytest.approx((0.3 + 0.5) / 2)


def test_latest_is_the_newest_created_in_any_time_zone(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", [], created="2024-05-01T10:00:00+00:00")
    write_sweep(tmp_path / "b", [], created="2024-05-01T11:30:00+02:00")
    (tmp_path / "no_sweep").mkdir()
    assert Sweep("latest", tmp_path).name == "a"
    assert [folder.name for folder in sweep_folders(tmp_path)] == ["a", "b"]
    assert Sweep("b", tmp_path).folder == Sweep(tmp_path / "b").folder


def test_a_folder_that_a_kill_left_half_made_stands_in_nobodys_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "whole", [GOOD])
    half = tmp_path / "half"
    with locked(half):
        assert Sweep("latest", tmp_path).folder == half, "its driver is about to write"
    assert is_half_made(half)
    assert Sweep("latest", tmp_path).name == Sweep("latest", tmp_path).name == "whole"
    assert capsys.readouterr().err.count("half is passed over: its driver was killed") == 1
    with pytest.raises(InputError, match=r"sweep=half: its driver was killed.*Start it again under this name"):
        Sweep("half", tmp_path)
    (half / "sweep.yaml").touch()
    assert Sweep("latest", tmp_path).name == "half", "its age is that of the folder"


def test_a_name_that_no_file_can_have_is_one_that_does_not_exist(tmp_path: Path) -> None:
    write_sweep(tmp_path / "whole", [])
    with pytest.raises(InputError, match=r"does not exist.*newest first: whole"):
        Sweep("n" * 300, tmp_path)


def test_errors_say_what_exists_and_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m tune_app\.run family=seesaw"):
        Sweep("latest", tmp_path / "none")
    write_sweep(tmp_path / "a", [GOOD])
    with pytest.raises(InputError, match=r"sweep=b: does not exist.*newest first: a"):
        Sweep("b", tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"holds no sweep.*newest first: a"):
        Sweep(tmp_path / "b", tmp_path)
    with pytest.raises(InputError, match=r"no such trial. Choices: 0000_seesaw_default"):
        Sweep("a", tmp_path).trial("x")
    assert Sweep("a", tmp_path).trial("seesaw_default").number == 0


def test_refresh_sees_new_epochs_and_trials(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "a", [GOOD])
    sweep = Sweep(folder)
    add_to_study(open_study(folder), "0001_seesaw_p0.3", WORSE)
    write_trial(folder / "trials" / "0001_seesaw_p0.3", 1, WORSE, ("nuc", "pm"))
    assert len(sweep.trials) == 1
    assert len(sweep.refresh().trials) == 2


def test_exit_codes() -> None:
    assert (InputError("x").exit_code, RunFailed("x").exit_code) == (2, 1)
    assert issubclass(InputError, TuneAppError)
    assert issubclass(InputError, ValueError)


def test_manifest_round_trip(tmp_path: Path) -> None:
    data = {"name": "phantom", "root": ""}
    manifest = build_manifest(
        sweep="s",
        family="seesaw",
        seed=3,
        objective=Objective(metric="mean_dice"),
        classes=["nuc"],
        data=data,
        fingerprint="f00d",
        space={"p": [0.0, 2.0]},
    )
    write_manifest(tmp_path / "s", manifest)
    assert read_manifest(tmp_path / "s") == manifest
    assert manifest["data"] == {"name": "phantom", "root": "", "fingerprint": "f00d", "phantom": True}
    assert manifest["packages"]["torch"]
    assert manifest["hardware"]["cpus"] >= 1
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["manifest.json"]


def test_manifest_never_fails_to_gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() is None
    manifest = build_manifest(
        sweep="s",
        family="f",
        seed=0,
        objective=Objective(metric="mean_dice"),
        classes=[],
        data={},
        space={"p": np.float64(1)},
    )
    assert manifest["hardware"]["gpus"] == []
    write_manifest(tmp_path, manifest)
    (tmp_path / "manifest.json").write_text('{"sweep": "s", ')
    assert read_manifest(tmp_path) == {}


def test_manifest_refuses_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_manifest(tmp_path / "file", {})


def test_settings_hash_is_of_the_content() -> None:
    assert settings_hash({"a": 1, "b": {"c": 2}}) == settings_hash({"b": {"c": 2}, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
