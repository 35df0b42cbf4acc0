"""What the results and cache folders hold, and that only what may go goes, and only when it is asked for twice."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from filelock import FileLock
from sweep_folder import WrittenTrial, write_sweep

from tune_app.errors import InputError
from tune_app.settings.command_line import compose
from tune_app.sweep.housekeeping import SweepsSettings, act

DAY_S = 86_400
TRIAL = WrittenTrial(label="seesaw_p0.8", dice=[(0.5, 0.5)])


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three sweeps, one of which was killed before it had a manifest."""
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    monkeypatch.setenv("TUNE_APP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "results"
    write_sweep(folder / "old", [TRIAL, TRIAL], created="2024-01-01T10:00:00+00:00")
    write_sweep(folder / "new", [TRIAL], created="2024-03-01T10:00:00+00:00", status="interrupted")
    write_sweep(folder / "cut", [TRIAL], created="2024-02-01T10:00:00+00:00", status="running")
    (folder / "half").mkdir()
    (folder / "half" / "sweep.lock").touch()
    return folder


@pytest.fixture
def cache(results: Path) -> Path:
    """Two packed caches of 2 MB, the generated data, a build that died, and a split; each a day older than the next."""
    folder = results.parent / "cache"
    made = ["packed/aa", "packed/bb", "packed/cc.building-7", "phantom-v1", "splits"]
    for age, name in zip(range(len(made), 0, -1), made):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.em.npy").write_bytes(bytes(2_000_000))
        if name in ("packed/aa", "packed/bb"):
            (folder / name / "index.json").write_text(json.dumps({"classes": ["nuc", "pm"], "crops": [{}] * 3}))
        for path in (*(folder / name).iterdir(), folder / name):
            os.utime(path, (os.path.getmtime(path) - age * DAY_S,) * 2)
    return folder


def type_words(results: Path, *words: str) -> int:
    composed = compose("sweeps", SweepsSettings, [f"results_dir={results}", *words])
    assert composed is not None
    return act(composed.settings).code


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_sweeps_and_caches_are_listed_with_state_and_size(results, cache, capsys):
    with FileLock(results / "old" / "sweep.lock"):
        assert type_words(results) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0]: line for line in told.splitlines() if line}
    assert [rows[name].split()[1] for name in ("new", "cut", "old", "half")] == [
        "interrupted",
        "crashed",
        "running",
        "half-made",
    ]
    assert re.search(r"old +running +2 ", told)
    assert re.search(r"packed/aa +2 MB .*3 crops, nuc, pm", told)
    assert "left by a build" in rows["packed/cc.building-7"]
    assert "splits" not in told
    assert "caches in " in told
    assert ": 4, 8 MB" in told


def test_a_confirmation_that_runs_keeps_its_sweep(results, capsys):
    lock = write_sweep(results / "old" / "confirmation_2", [TRIAL]) / "sweep.lock"
    with FileLock(lock), pytest.raises(InputError, match="old: another process is running this sweep"):
        type_words(results, "action=delete", "sweep=old", "force=true")
    assert len(names(results / "old")) == 5


@pytest.mark.parametrize("name", ["old", "half"])
def test_a_sweep_is_deleted_when_it_is_asked_for_twice(results, capsys, name):
    assert type_words(results, "action=delete", f"sweep={name}") == 0
    told = capsys.readouterr().out
    assert "Nothing was removed" in told
    assert "force=true" in told
    assert f"action=delete sweep={results}/{name} force=true" in told
    assert names(results) == {"old", "new", "cut", "half"}
    assert type_words(results, "action=delete", f"sweep={name}", "force=true") == 0
    assert names(results) == {"old", "new", "cut", "half"} - {name}


def test_a_running_sweep_is_never_deleted(results):
    with FileLock(results / "old" / "sweep.lock"), pytest.raises(InputError, match="end that process first"):
        type_words(results, "action=delete", "sweep=old", "force=true")
    assert "manifest.json" in names(results / "old")


def test_the_least_recently_used_caches_go_first(results, cache, capsys):
    words = ("action=clean", "keep_gb=0.0045")
    assert type_words(results, *words) == 0
    assert "action=clean keep_gb=0.0045 force=true" in capsys.readouterr().out
    assert names(cache / "packed") == {"aa", "bb", "cc.building-7"}
    assert type_words(results, *words, "force=true") == 0
    assert names(cache / "packed") == {"cc.building-7"}
    assert names(cache) == {"packed", "phantom-v1", "splits"}


def test_caches_that_were_not_used_for_days(results, cache, capsys):
    assert type_words(results, "action=clean", "unused_days=2.5", "force=true") == 0
    assert names(cache / "packed") == set()
    assert names(cache) == {"packed", "phantom-v1", "splits"}
    assert type_words(results, "action=clean", "keep_gb=0", "force=true") == 0
    assert names(cache) == {"packed", "splits"}
    assert "splits" not in capsys.readouterr().out


def test_a_cache_that_is_being_built_stays(results, cache):
    with FileLock(cache / "packed" / "cc.lock"):
        assert type_words(results, "action=clean", "keep_gb=0", "force=true") == 0
    assert names(cache / "packed") == {"cc.building-7"}
    assert "phantom-v1" in names(cache), "it may be read by that build"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["action=delete"], "action=delete needs the name of one sweep"),
        (["action=delete", "sweep=latest"], "action=delete needs the name of one sweep"),
        (["action=delete", "sweep=gone"], "sweep=gone: does not exist"),
        (["action=clean"], "Use unused_days=30, keep_gb=20, or both"),
        (["action=clean", "keep_gb=-1"], "keep_gb=-1"),
        (["action=clean", "keep_gb=nan"], "keep_gb=nan"),
        (["action=remove"], "choose one of list, delete, clean"),
    ],
)
def test_what_is_refused(results, words, said):
    with pytest.raises(ValueError, match=said):
        type_words(results, *words)
    assert len(names(results)) == 4
