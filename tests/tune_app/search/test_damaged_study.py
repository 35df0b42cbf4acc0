"""A study that is damaged or gone is made anew from the trial folders."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driven import begin, finish_all, searcher_of, study_of, train
from planned import COUNTS, settings_of

from search_spaces import trial_signature
from trainables.objective import Objective
from tune_app.errors import InputError
from tune_app.results.trial import GIVEN_UP
from tune_app.search.arms import searched_space
from tune_app.search.recovery import mend_study
from tune_app.search.study import JOURNAL

WORDS = (
    "family=all",
    "search.num_samples=14",
    "search.startup_trials=4",
    "search.presets_first=false",
    "trainer.epochs=4",
)
NUMBER = 10
"""Trials of `begun`."""


def mend(folder: Path) -> str:
    signature = functools.partial(trial_signature, counts=COUNTS, window_voxels=None)
    return mend_study(folder, searched_space(settings_of(*WORDS)), signature, Objective(metric="mean_dice"), 4)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A killed sweep: trials that ended in all ways, and two that run, one without a row."""
    folder = tmp_path_factory.mktemp("begun")
    searcher = searcher_of(folder, *WORDS)
    for number in range(NUMBER):
        trial_id, config = begin(searcher)  # type: ignore[misc]
        trial = folder / "trials" / config["run"]["name"]
        trial.mkdir(parents=True)
        (trial / "config.json").write_text(json.dumps(config))
        kind = ("whole", "pruned", "whole", "nan", "error", "whole", "pruned", "whole", "running", "new")[number]
        rows = [train(searcher, trial_id, config, 1)] if kind != "new" else []
        if kind in ("whole", "pruned", "nan"):
            train(searcher, trial_id, config, 3 if kind == "whole" else 1)
            last = 4 if kind == "whole" else 2
            rows = [train(searcher, trial_id, config, epoch, first=epoch) for epoch in range(1, last)]
            rows.append({**rows[-1], "epoch": last, "done": True, "best_mean_dice": 0.7})
            if kind == "nan":
                rows[-1] |= {"mean_dice": math.nan, "diagnosis": "nan"}
            searcher.on_trial_complete(trial_id, rows[-1])
        if kind == "error":
            searcher.on_trial_complete(trial_id, error=True)
            (trial / "error.txt").write_text(f"Failure # 3\n{GIVEN_UP}\n")
        if kind == "running":
            (trial / "error.txt").write_text("Failure # 1\nThe actor died. The trial goes on from its checkpoint.\n")
        if kind != "new":
            (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    states = [trial.state.name for trial in study_of(folder).get_trials()]
    assert {*states} == {"COMPLETE", "PRUNED", "FAIL", "RUNNING"}
    return folder


@pytest.fixture
def sweep(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "sweep")


def told(folder: Path) -> list[Any]:
    """All that the study says of its trials; the text, since NaN is not NaN."""
    kept = ("number", "state", "params", "distributions", "values", "intermediate_values", "user_attrs")
    return [{key: getattr(trial, key) for key in kept} for trial in study_of(folder).get_trials()]


def changed_in_the_middle(journal: Path) -> None:
    content = bytearray(journal.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20] = bytes(range(200, 220))
    journal.write_bytes(content)


def without(lines: slice) -> Callable[[Path], None]:
    """Lines cut out, as where blocks of the file are lost at the end of one."""

    def cut(journal: Path) -> None:
        kept = journal.read_bytes().splitlines(keepends=True)
        del kept[lines]
        journal.write_bytes(b"".join(kept))

    return cut


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "absent": Path.unlink,
    "empty": lambda journal: journal.write_bytes(b""),
    "zeroed": lambda journal: journal.write_bytes(bytes(journal.stat().st_size)),
    "changed in the middle": changed_in_the_middle,
    "one line changed": lambda journal: journal.write_text(journal.read_text().replace('"op_code":4', '"op_code":5')),
    "cut in two": lambda journal: journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2]),
    "without its second half": without(slice(30, None)),
    "without its first line": without(slice(0, 1)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_study_is_made_anew_from_the_trial_folders(sweep: Path, begun: Path, damage: Callable) -> None:
    """It says the same of every trial, so the search goes on as it would have gone on."""
    damage(sweep / JOURNAL)
    damaged = (sweep / JOURNAL).read_bytes() if (sweep / JOURNAL).is_file() else None
    notice = mend(sweep)
    assert f"made anew from {NUMBER} trials in their folders" in notice
    assert told(sweep) == told(begun)
    kept = sweep / f"{JOURNAL}.damaged-1"
    assert damaged == (kept.read_bytes() if kept.is_file() else None)
    assert {path.name for path in sweep.iterdir()} - {kept.name} == {"trials", JOURNAL}, "nothing half made"
    assert mend(sweep) == "", "once is enough"

    again = shutil.copytree(begun, sweep.parent / "again")
    assert finish_all(searcher_of(sweep, *WORDS), 4) == finish_all(searcher_of(again, *WORDS), 4)


def test_a_last_line_cut_short_is_no_damage(sweep: Path) -> None:
    torn = (sweep / JOURNAL).read_bytes() + b'{"op_code":6,"wor'
    (sweep / JOURNAL).write_bytes(torn)
    assert mend(sweep) == ""
    assert (sweep / JOURNAL).read_bytes() == torn


def test_a_sweep_that_has_begun_no_trial_has_no_damage(tmp_path: Path) -> None:
    assert mend(tmp_path) == ""
    study_of(tmp_path)
    assert mend(tmp_path) == ""
    (tmp_path / JOURNAL).write_bytes(bytes(200))
    assert mend(tmp_path).endswith("made anew from 0 trials in their folders")
    assert told(tmp_path) == []


def test_damaged_again_both_files_are_kept(sweep: Path) -> None:
    for number in (1, 2):
        (sweep / JOURNAL).write_text(f"damaged {number}\n")
        mend(sweep)
    assert [(sweep / f"{JOURNAL}.damaged-{n}").read_text() for n in (1, 2)] == ["damaged 1\n", "damaged 2\n"]


def test_a_trial_that_had_no_folder_yet_keeps_its_number(sweep: Path) -> None:
    """Of two that were begun at once, the second was the faster."""
    (first,) = sweep.glob("trials/0008_*")
    shutil.rmtree(first)
    (sweep / JOURNAL).unlink()
    assert mend(sweep).endswith("; 8 had not begun and count as failed")
    trials = study_of(sweep).get_trials()
    assert (trials[8].state.name, trials[8].user_attrs["reason"]) == ("FAIL", "lost")
    assert trials[9].user_attrs["name"].startswith("0009_")


def edited(folder: Path, name: str, change: Callable[[dict], Any]) -> Path:
    (path,) = folder.glob(f"trials/{name}_*/config.json")
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: edited(f, "0001", lambda c: c.update(seed=5)), "its seed is 0 in the study, 5 in the folder"),
        (lambda f: edited(f, "0001", lambda c: c["loss"].update(name="x")), "its loss is"),
        (lambda f: next(f.glob("trials/0001_*")).rename(f / "trials" / "0001_other"), "0001_other: trial 1 is 0001_"),
        (
            lambda f: next(f.glob("trials/0001_*/result.json")).write_text('{"epoch": 1, "mean_dice": 0.25}\n'),
            "mean_dice of epoch 1 is",
        ),
        (lambda f: (f / "trials" / "0009_0").mkdir(), "0009_0/config.json does not say"),
    ],
)
def test_a_study_and_folders_that_disagree_are_refused(sweep: Path, change: Callable, says: str) -> None:
    changed_in_the_middle(sweep / JOURNAL)
    change(sweep)
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        mend(sweep)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change", [lambda c: c.clear(), lambda c: c["run"].pop("params"), lambda c: c["run"].update(params={"p": 99})]
)
def test_a_trial_of_which_neither_says_what_it_was_is_refused(sweep: Path, change: Callable) -> None:
    path = edited(sweep, "0003", change)
    (sweep / JOURNAL).unlink()
    with pytest.raises(InputError, match=f"{path.parent.name}/config.json does not say what this trial was"):
        mend(sweep)
