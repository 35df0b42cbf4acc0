"""What resume= and extend= accept, checked on sweep folders that no driver wrote."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock
from planned import COUNTS, composed_of, dataset_in_memory, settings_of
from sweep_folder import WrittenTrial, write_sweep

from search_spaces import ClassCounts
from trainables.data.cellmap.reader import discover_crops
from trainables.data.sources import open_source
from trainables.objective import Objective
from tune_app.errors import InputError, RunFailed
from tune_app.ray_adapters.session import RaySession, TrialResources
from tune_app.results.manifest import read_manifest, write_manifest
from tune_app.results.summary import notices
from tune_app.results.sweep import Sweep
from tune_app.settings.command_line import Composed
from tune_app.settings.stored import FREQUENCIES, TRIAL
from tune_app.sweep import runner as sweep_module
from tune_app.sweep.announce import _baseline_line, _warnings, announce, classes_line
from tune_app.sweep.begin import checked_preset
from tune_app.sweep.folder import locked, new_folder
from tune_app.sweep.prepare import Prepared, prepare
from tune_app.sweep.progress import Progress
from tune_app.sweep.resume import take_up
from tune_app.sweep.runner import _write_folder

STARTED_WITH = ("family=seesaw", "trainer.epochs=4", "space.p=[0.5,1.2]", "resources.gpus_per_trial=0.25")


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Makes a sweep folder results/mine with the settings that these words give."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)

    def start(*words: str, status: str = "finished", trials: int = 3) -> Path:
        folder = write_sweep(
            tmp_path / "results" / "mine", [WrittenTrial(label="a", dice=[(0.1, 0.2)])] * trials, status=status
        )
        (folder / "sweep.yaml").write_text(yaml.safe_dump(settings_of(*words).as_dict()))
        return folder

    return start


def taken_up(*words: str) -> Prepared:
    return take_up(composed_of(*words))


def test_a_sweep_goes_on_with_its_own_settings(started):
    folder = started(*STARTED_WITH)
    prepared = taken_up("resume=latest")
    settings = prepared.settings
    assert (prepared.folder, prepared.resumed, prepared.extended) == (folder, True, False)
    assert (settings.trainer.epochs, settings.space) == (4, {"p": [0.5, 1.2]})
    assert (settings.resume, settings.extend) == ("", "")


def test_what_may_change_changes_alone(started):
    """A single resource is replaced; the others stay those of the sweep, not the defaults."""
    started(*STARTED_WITH)
    settings = taken_up("resume=mine", "resources.max_concurrent=1", "verbose=1", "checkpoints.max_number=3").settings
    assert (settings.resources.max_concurrent, settings.resources.gpus_per_trial) == (1, 0.25)
    assert (settings.verbose, settings.checkpoints.max_number) == (1, 3)
    assert settings.trainer.epochs == 4


def test_repeating_the_settings_of_the_sweep_is_no_change(started):
    started(*STARTED_WITH, "search.num_samples=7")
    words = [*STARTED_WITH, "search.num_samples=7", "experiment=none", "data=phantom"]
    assert taken_up(*words, "resume=mine").settings.search.num_samples == 7


@pytest.mark.parametrize(
    ("word", "fragment"),
    [
        ("trainer.epochs=5", "trainer.epochs=5: sweep mine was started with trainer.epochs=4"),
        ("family=static", "family=static"),
        ("space.p=0.8", "space.p=0.8"),
        ("space.q=1", "space.q=1"),
        ("seed=3", "seed=3"),
        ("model=unet", "model.width=64"),
        ("trainer=published", "trainer.epochs=60"),
        ("experiment=class_weighting", "experiment_name=class_weighting"),
        ("search=random", "search.name=random"),
        ("name=other", "name=other"),
        ("search.num_samples=20", "extend=mine search.num_samples"),
    ],
)
def test_a_changed_setting_is_refused(started, word, fragment):
    folder = started(*STARTED_WITH)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="mine") as caught:
        taken_up("resume=mine", word)
    assert fragment in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_no_sweep(started, tmp_path):
    started()
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="holds no sweep"):
        taken_up("resume=other")
    (tmp_path / "other" / "trials").mkdir()
    with pytest.raises(InputError, match=r"no sweep\.yaml"):
        taken_up("resume=other")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a: [1",
        b"- 1",
        b"trainer: {epochs: many}",
        b"bogus: 3",
        b"trainer: 7",
        b"seed: [1]",
        b"name: \xff",
        b"[" * 1500,
    ],
)
def test_a_damaged_sweep_yaml(started, content):
    folder = started()
    (folder / "sweep.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"sweep\.yaml"):
        taken_up("resume=mine")


def test_a_sweep_that_runs_already(started):
    folder = started()
    with FileLock(folder / "sweep.lock"), pytest.raises(InputError, match="another process is running this sweep"):
        taken_up("resume=mine")


def test_other_data_are_refused(started):
    folder = started()
    manifest = read_manifest(folder)
    write_manifest(folder, {**manifest, "data": {**manifest["data"], "fingerprint": "other"}})
    with pytest.raises(InputError, match="the data under"):
        taken_up("resume=mine")


def test_extending_adds_to_the_trials_there(started):
    folder = started("search.num_samples=3")
    stored = (folder / "sweep.yaml").read_text()
    prepared = taken_up("extend=latest", "search.num_samples=2")
    assert prepared.num_trials == 5
    assert (prepared.resumed, prepared.extended) == (True, True)
    assert (folder / "sweep.yaml").read_text() == stored, "written only once the sweep is held"


def test_a_space_that_was_tried_whole_is_not_extended(started):
    started("family=seesaw", "space.p=1.0", "space.q=2.0", trials=2)
    with pytest.raises(InputError, match="extend=mine: mine has tried all 2 configurations of its space"):
        taken_up("extend=mine", "search.num_samples=2")
    assert taken_up("resume=mine").num_trials == 2


def without_baseline(folder: Path) -> None:
    """As a sweep.yaml was that was written before there was search.baseline."""
    values = yaml.safe_load((folder / "sweep.yaml").read_text())
    del values["search"]["baseline"]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values))


def test_an_older_sweep_goes_on_without_a_baseline(started):
    folder = started("family=seesaw")
    assert [arm.label for arm in taken_up("resume=mine").arms][:2] == ["weight_uniform", "seesaw_default"]
    without_baseline(folder)
    for words in (["resume=mine"], ["resume=mine", "search=optuna"], ["extend=mine", "search.num_samples=2"]):
        prepared = taken_up(*words)
        assert (prepared.arms[0].label, prepared.baseline) == ("seesaw_default", "")


@pytest.mark.parametrize(
    ("words", "trials"),
    [
        (["family=seesaw", "search.num_samples=3"], 3 + 1),
        (["family=seesaw", "search=grid", "search.grid_points=2"], 3 + 4 + 1),
        (["preset=seesaw_default", "seeds=3"], 3 + 3),
    ],
)
def test_the_baseline_can_be_added_to_any_finished_sweep(started, words, trials):
    folder = started(*words, "search.baseline=false")
    prepared = taken_up("extend=mine", "search.baseline=true")
    assert prepared.num_trials == trials
    assert prepared.baseline == "weight_uniform"
    assert "weight_uniform" in [arm.label for arm in prepared.arms]
    assert prepared.settings.search.baseline is True
    with pytest.raises(InputError, match=r"search\.baseline=True: sweep mine was started with search\.baseline=False"):
        taken_up("resume=mine", "search.baseline=true")
    assert yaml.safe_load((folder / "sweep.yaml").read_text())["search"]["baseline"] is False


def test_the_baseline_and_further_trials_can_be_added_together(started):
    started("family=seesaw", "search.num_samples=3", "search.baseline=false")
    assert taken_up("extend=mine", "search.baseline=true", "search.num_samples=5").num_trials == 8


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("family=seesaw", "weight_uniform; ASHA does not stop it"),
        ("family=seesaw scheduler.name=none", "weight_uniform"),
        ("family=tversky", "tversky_0.6_0.4, which is the same as weight_uniform; ASHA does not stop it"),
    ],
)
def test_what_is_said_of_the_baseline_beforehand(monkeypatch, tmp_path, words, line):
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)
    assert _baseline_line(prepare(settings_of(*words.split()), tmp_path / "new")) == line


def announced(monkeypatch, capsys, folder, *words):
    """What is printed before the first trial of a sweep."""
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)
    monkeypatch.setattr("tune_app.sweep.announce.record_plan", lambda prepared, resources: "none")
    given = [word.split("=")[0] for word in words]
    resources = TrialResources(cpus=1, gpus=0, slots=1)
    announce(prepare(settings_of(*words), folder), RaySession("", ""), resources, given=given)
    return capsys.readouterr().out


def test_one_trial_is_no_trials(monkeypatch, capsys, tmp_path):
    said = announced(monkeypatch, capsys, tmp_path / "new", "preset=seesaw_default", "trainer.iterations_per_epoch=1")
    assert "1 trial of up to 9 × 1 iteration, batch" in said
    assert "1 trial at once" in said
    assert (
        Progress(num_trials=1, epochs=9, classes=(), objective=Objective(metric="mean_dice"), slots=1)
        .headline()
        .startswith("0/1 trial done")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "; ASHA from epoch 5 (from 2 once ranks there foretell those at 5), η = 4\n"),
        ("scheduler.early=false", "; ASHA from epoch 5, η = 4\n"),
        ("scheduler.grace_period=1", "; ASHA from epoch 1, η = 4\n"),
        ("scheduler.name=promote", "; promoting ASHA from epoch 5, η = 4\n"),
        ("scheduler.name=none", "; no early stopping\n"),
    ],
)
def test_when_trials_may_be_stopped_is_said_beforehand(monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.setattr("tune_app.sweep.announce.columns", lambda: 1000)
    assert said in announced(monkeypatch, capsys, tmp_path / "new", "family=seesaw", *words.split())


def test_what_is_sought_is_said_beforehand_where_it_was_asked_for(monkeypatch, capsys, tmp_path):
    words = ("objective.metric=val_loss", "objective.at_least.precision.nuc=0.65", "objective.at_most.fg_pred.pm=0.01")
    said = announced(monkeypatch, capsys, tmp_path / "new", "family=seesaw", *words)
    assert "\nobjective  the lowest val loss, with precision/nuc ≥ 0.65, fg_pred/pm ≤ 0.01\n" in said
    one = announced(monkeypatch, capsys, tmp_path / "new", "family=seesaw", "objective.metric=dice/nuc")
    assert "\nobjective  the highest Dice nuc\n" in one
    assert "\nobjective" not in announced(monkeypatch, capsys, tmp_path / "new", "family=seesaw")


def test_what_every_point_says_anew_is_told_not_to_be_used(monkeypatch, capsys, tmp_path):
    said = announced(monkeypatch, capsys, tmp_path / "new", "family=optimiser", "trainer.batch_size=4")
    assert "batch 8 to 32;" in " ".join(said.split())
    assert "\nnote: trainer.batch_size is not used as given: family=optimiser gives each trial its own\n" in said
    assert "is not used" not in announced(monkeypatch, capsys, tmp_path / "new", "family=seesaw", "trainer.lr=0.01")


def test_what_is_said_beforehand_is_wrapped_in_a_narrow_terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tune_app.sweep.announce.columns", lambda: 60)
    lines = announced(monkeypatch, capsys, tmp_path / "new", "family=seesaw").splitlines()
    assert max(len(line) for line in lines if not line.startswith(("sweep", "tensorboard", "optuna-dashboard"))) <= 60
    assert any(line.startswith(" " * 11) for line in lines)


def test_a_missing_compiler_is_said_before_the_first_trial(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    uncompiled = announced(monkeypatch, capsys, tmp_path / "new", "trainer.compile=true")
    assert "warning: training runs uncompiled, and slower: there is no C++ compiler (no-such-compiler); " in uncompiled
    assert "uncompiled" not in announced(monkeypatch, capsys, tmp_path / "new", "trainer.compile=false")


def test_a_leaking_split_is_warned_of_and_stays_beside_the_leaderboard(monkeypatch, tmp_path, foreign_root):
    """Six of the seven crops that lie in a training crop validate: all of their volume is trained on."""
    crops = [crop for crop in discover_crops(foreign_root) if crop.name.startswith("liver-c")]
    sides = [
        dataclasses.replace(c, side="train" if c.name in ("liver-c/crop300", "liver-c/crop307") else "validate")
        for c in crops
    ]

    def leaking(settings):
        return dataclasses.replace(dataset_in_memory(settings), source=open_source(settings), items=tuple(sides))

    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", leaking)
    prepared = prepare(settings_of("family=seesaw"), tmp_path / "new")
    (told,) = [line for line in _warnings(prepared, ()) if "LEAK" in line]
    assert told.startswith("warning: LEAK: 100 % of the validation volume is training volume too (6 of 6 ")
    prepared.folder.mkdir()
    _write_folder(prepared)
    assert f"warning: {notices(Sweep(tmp_path / 'new'))[-1]}" == told


def test_a_baseline_that_is_there_is_not_added_again(started, monkeypatch):
    started("family=compare")
    monkeypatch.setattr("tune_app.sweep.resume.baseline_trials", lambda sweep: sweep.trials[:1])
    with pytest.raises(InputError, match="has the untuned baseline already, 0000_a"):
        taken_up("extend=mine", "search.baseline=true")


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (("family=compare",), "Repeat arms with seeds=3 in"),
        (("preset=seesaw_default",), "Repeat arms with seeds=3 in"),
        (("search=grid", "seed=4"), "Give another seed, seed=5, to"),
    ],
)
def test_a_fixed_list_cannot_be_extended(started, words, instead):
    started(*words)
    with pytest.raises(InputError, match=f"fixed list.*{instead} a new sweep"):
        taken_up("extend=mine", "search.num_samples=2")


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_an_unfinished_sweep_is_resumed_before_it_is_extended(started, status):
    started(status=status)
    with pytest.raises(InputError, match="resume=mine"):
        taken_up("extend=mine")


def test_a_sweep_keeps_what_it_was_started_with(started, tmp_path):
    """The file of trial= and the counts may be gone, or others, when the sweep is resumed."""
    text = yaml.safe_dump(
        {
            "loss": {"name": "tversky", "params": {"fp_weight": 0.3, "fn_weight": 0.7}},
            "name": "mine",
            "data": {},
            "model": {},
            "trainer": {},
        }
    )
    (tmp_path / "trial.yaml").write_text(text)
    folder = started(f"trial={tmp_path}/trial.yaml", f"frequencies={tmp_path}/gone.json")
    (tmp_path / "trial.yaml").rename(folder / TRIAL)
    counts = '{"classes": ["nuc"], "positive": [5], "known": [9], "source": "kept"}'
    (folder / FREQUENCIES).write_text(counts)
    prepared = taken_up("resume=mine")
    assert [arm.label for arm in prepared.arms] == ["mine"]
    assert prepared.counts.positive == (5,)


def test_a_preset_brings_its_family():
    assert checked_preset(composed_of("preset=balanced_softmax_tau_1.0")).family == "balanced_softmax"
    settings = settings_of("preset=balanced_softmax_tau_1.0")
    assert not settings.early_stopping
    assert settings_of("preset=balanced_softmax_tau_1.0", "scheduler.name=asha").early_stopping


@pytest.mark.parametrize(
    ("words", "trials", "grace"),
    [
        (["family=compare"], 15, 5),
        (["family=compare", "seeds=3", "trainer=published"], 45, 5),
        (["family=compare", "experiment=class_weighting"], 15, 6),
        (["preset=seesaw_default", "seeds=2"], 2, 5),
        (["family=seesaw", "search.num_samples=7"], 7, 5),
        (["family=seesaw", "experiment=class_weighting"], 16, 6),
        (["family=seesaw", "search.num_samples=2", "scheduler.grace_period=99"], 2, 9),
        (["family=seesaw", "space.p=1", "space.q=2"], 2, 5),  # and the baseline
        (
            ["family=seesaw", "search=grid", "search.grid_points=3"],
            1 + 3 + 9 - 1,
            5,
        ),  # baseline; one preset on the grid
    ],
)
def test_number_of_trials_and_grace_period(monkeypatch, tmp_path, words, trials, grace):
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)
    prepared = prepare(settings_of(*words), tmp_path / "new")
    assert prepared.num_trials == trials
    assert prepared.settings.grace_period == grace
    assert not (tmp_path / "new").exists()


def test_a_count_window_holds_the_annotated_voxels_of_its_patches(monkeypatch, tmp_path):
    """One crop of 1 × 64 × 64 voxels, 4000 of them annotated, fills a patch; batches of 16, windows of 10."""
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)
    assert prepare(settings_of(), tmp_path / "new").window_voxels == pytest.approx(4000 * 16 * 10)
    whole = prepare(settings_of("trainer.count_window=all"), tmp_path / "new")
    assert whole.window_voxels == pytest.approx(4000 * 16 * 9 * 20)


def test_given_keys_lose_their_prefixes():
    composed = Composed(settings_of(), ["++space.p=1", "~a", "family=seesaw", "trainer.lr=1=2"])
    assert composed.given_keys == ["space.p", "a", "family", "trainer.lr"]


def test_a_full_disk_is_one_sentence_that_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)
    prepared = prepare(settings_of(), tmp_path / "new")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sweep_module, "_is_done", full)
    with pytest.raises(RunFailed, match=r"No space left on device.*resume="):
        sweep_module.run_sweep(dataclasses.replace(prepared, resumed=True))


def test_a_sweep_in_a_folder_that_is_read_only_is_not_taken_up(monkeypatch, started):
    folder = started(*STARTED_WITH)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    with pytest.raises(InputError, match=rf"{folder}: cannot be written \(Read-only file system\).*copy it"):
        sweep_module.run_sweep(taken_up("resume=mine"))


@pytest.mark.parametrize("name", ["a b", "../x", "latest", "-x", "a/b"])
def test_a_name_that_cannot_be_typed_back_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="name="):
        new_folder(dataclasses.replace(settings_of(), name=name, results_dir=str(tmp_path)))


def test_a_name_that_a_killed_driver_left_empty_can_be_taken_again(tmp_path):
    settings = dataclasses.replace(settings_of(), name="mine", results_dir=str(tmp_path))
    with locked(tmp_path / "mine"):
        pass
    assert new_folder(settings) == tmp_path / "mine"
    with locked(tmp_path / "mine"), pytest.raises(InputError, match="exists already"):
        new_folder(settings)


def test_a_sweep_killed_before_its_manifest_is_given_one(started):
    folder = started(*STARTED_WITH)
    (folder / "manifest.json").unlink()
    sweep_module._write_folder(taken_up("resume=latest"))
    manifest = read_manifest(folder)
    assert (manifest["status"], manifest["sweep"], manifest["data"]["fingerprint"]) == ("running", "mine", "f00d")


@pytest.mark.parametrize(("planned", "crashed_early"), [(2, False), (3, True)])
def test_a_sweep_that_had_ended_needs_no_ray(monkeypatch, tmp_path, planned, crashed_early):
    """A driver that crashed after the last trial had ended left `running` in the manifest."""

    def no_ray(settings):
        raise RuntimeError("a Ray is started")

    monkeypatch.setattr(sweep_module, "ray_session", no_ray)
    folder = write_sweep(
        tmp_path / "mine", [WrittenTrial(label=label, dice=[(0.5,)]) for label in "ab"], status="running", classes=["a"]
    )
    known = {"space": {}, "counts": COUNTS, "window_voxels": None}
    prepared = SimpleNamespace(folder=folder, resumed=True, num_trials=planned, settings=settings_of(), **known)
    if crashed_early:
        with pytest.raises(RuntimeError, match="a Ray is started"):
            sweep_module.run_sweep(prepared)
    else:
        assert sweep_module.run_sweep(prepared).complete
    assert read_manifest(folder)["status"] == ("running" if crashed_early else "finished")


def test_rare_classes_are_named_beforehand():
    counts = ClassCounts(("nuc", "pm", "ves"), (120, 5, 0), (1000, 1000, 0))
    assert classes_line(counts) == "nuc 12 %, pm 0.5 %; rare: pm"
