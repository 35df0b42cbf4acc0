"""What a person types: every mistake gets one message and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import planned
import pytest

from trainables.data.phantom import generate as phantom
from trainables.errors import SettingsError
from trainables.settings import DataSettings
from tune_app import run as run_module
from tune_app.__main__ import VERBS
from tune_app.__main__ import main as list_verbs
from tune_app.data import DataVerbSettings, generate
from tune_app.errors import InputError, RunFailed
from tune_app.ray_adapters.remote import plain
from tune_app.results.summary import SummarySettings
from tune_app.settings.command_line import compose, exit_code
from tune_app.settings.schema import Settings
from tune_app.settings.stored import located
from tune_app.sweep.begin import with_exported


@pytest.fixture
def type_run(tmp_path, monkeypatch, capsys):
    """Types `python -m tune_app.run WORDS` in an empty folder; (exit code, stdout, stderr, files left)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_APP_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    for name in ("TUNE_APP_DATA_ROOT", "TUNE_APP_RESULTS"):
        monkeypatch.delenv(name, raising=False)

    def type_words(*words: str) -> tuple[int, str, str, list[Path]]:
        before = set(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["run", *words])
        with pytest.raises(SystemExit) as ended:
            run_module.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err, sorted(set(tmp_path.rglob("*")) - before)

    return type_words


def settings_of(*words: str) -> Settings:
    composed = compose("run", Settings, words)
    assert composed is not None
    return composed.settings


BAD = {
    "unknown family": (["family=bogus"], ["family=bogus", "seesaw", "tversky", "compare"]),
    "empty family": (["family="], ["no such family"]),
    "unknown preset": (["preset=bogus"], ["preset=bogus", "seesaw_default"]),
    "preset of another family": (["family=static", "preset=seesaw_default"], ["preset of seesaw", "Leave family= out"]),
    "misspelt key": (["trainer.epoch=3"], ["trainer.epoch:", "Did you mean trainer.epochs"]),
    "misspelt key of a point": (["search.priro=p=0.8,q=2"], ["search.priro:", "Did you mean search.prior"]),
    "unknown key": (["bogus=3"], ["bogus:", "no such setting", "family"]),
    "added key": (["+trainer.bogus=3"], ["trainer.bogus:", "trainer.epochs"]),
    "forced key": (["++bogus=3"], ["bogus:", "no such setting"]),
    "key in a mapping": (["trainer={bogus:3}"], ["trainer.bogus:", "trainer.epochs"]),
    "word for a number": (["trainer.epochs=many"], ["trainer.epochs=many", "a whole number"]),
    "fraction for a whole number": (["search.num_samples=1.5"], ["search.num_samples=1.5", "a whole number"]),
    "word for a switch": (["trainer.compile=maybe"], ["trainer.compile=maybe: must be true or false"]),
    "null for a switch": (["scheduler.early=null"], ["scheduler.early=null: takes a value, not null"]),
    "number for a switch": (["scheduler.early=2"], ["scheduler.early=2: must be true or false"]),
    "word for the early rung": (["scheduler.early=maybe"], ["scheduler.early=maybe: must be true or false"]),
    "number for a list": (["data.patch=3"], ["data.patch", "three positive numbers"]),
    "word in a list": (["data.patch=[1,a,3]"], ["data.patch=[1,a,3]", "a whole number"]),
    "number for a mapping": (["space=3"], ["space=3"]),
    "number for a group": (["trainer=3"], ["trainer=3"]),
    "no value": (["trainer.epochs"], ["trainer.epochs:", "key=value"]),
    "no key": (["=3"], ["=3"]),
    "open bracket": (["space.p=[0.5"], ["space.p=[0.5"]),
    "value below its range": (["trainer.epochs=0"], ["trainer.epochs=0", "[1, 1000000]"]),
    "no seeds": (["seeds=0"], ["seeds=0", "[1, 1000]"]),
    "patch and depth": (["data.patch=[1,30,30]"], ["data.patch=[1, 30, 30]", "2**model.depth = 8", "[1,32,32]"]),
    "space value outside": (["space.p=3.5"], ["space.p: 3.5", "seesaw's range for p, [0.0, 2.0]", "space.p="]),
    "space range outside": (["space.p=[0.5,9]"], ["space.p: 9", "[0.0, 2.0]"]),
    "space word": (["space.p=high"], ["space.p: high is not a number"]),
    "space parameter": (["space.r=1"], ["seesaw has no parameter r", "p, q"]),
    "space of the joint search": (["family=all", "space.seesaw.p=9"], ["space.seesaw.p: 9", "[0.0, 2.0]"]),
    "space family": (["family=all", "space.family=bogus"], ["space.family: bogus", "seesaw"]),
    "space of compare": (["family=compare", "space.p=1"], ["family=compare has no space"]),
    "space of a preset": (["preset=seesaw_default", "space.p=1"], ["preset= has no space"]),
    "unknown group choice": (["search=bogus"], ["search=bogus", "grid, optuna, random"]),
    "unknown searcher": (["search.name=bogus"], ["search.name=bogus", "optuna, random, grid"]),
    "unknown data": (["data=bogus"], ["data=bogus", "cellmap, cellmap14, oct, phantom, phantom14, surface, wildfire"]),
    "unknown experiment": (["experiment=bogus"], ["experiment=bogus", "class_weighting"]),
    "unknown model": (["model.name=bogus"], ["model.name=bogus", "unet"]),
    "unknown option of a model": (["model.options.bogus=1"], ["model.options.bogus=1", "Choices: norm"]),
    "unknown task": (["task.name=bogus"], ["task.name=bogus", "binary, classification, multilabel"]),
    "task option": (["task.options.bogus=1"], ["task.options.bogus=1", "no such setting"]),
    "too many classes": (["task.name=binary"], ["data.classes=", "exactly one class"]),
    "unknown flag": (["--bogus"], ["unrecognized arguments: --bogus"]),
    "two families": (["family=static,seesaw"], ["family=all space.family=[static,seesaw]", "the comma"]),
    "two numbers": (["trainer.lr=0.1,0.2"], ["trainer.lr=0.1,0.2: one value", "Give one of them"]),
    "multirun": (["--multirun", "family=static,seesaw"], ["--multirun", "family=all"]),
    "multirun cut short": (["--multi", "family=static"], ["--multirun", "family=all"]),
    "multirun among flags": (["-hm"], ["--multirun", "family=all"]),
    "multirun as a setting": (["hydra.mode=MULTIRUN"], ["--multirun", "family=all"]),
    "rerun": (["--experimental-rerun", "evil.pickle"], ["--experimental-rerun evil.pickle", "trial=FILE"]),
    "rerun with an equals sign": (["--experimental-rerun=evil.pickle"], ["evil.pickle", "as code"]),
    "rerun cut short": (["--exp=evil.pickle"], ["evil.pickle", "as code"]),
    "no choice of a flag": (["--cfg", "bogus"], ["--cfg", "invalid choice"]),
    "resume of nothing": (["resume=bogus"], ["bogus", "does not exist"]),
    "resume without sweeps": (["resume=latest"], ["no sweep in results", "family=seesaw"]),
    "extend of nothing": (["extend=latest"], ["no sweep in results"]),
    "two ways to begin": (["resume=a", "extend=b"], ["resume=a extend=b", "only one"]),
    "trial that is not there": (["trial=bogus.yaml"], ["trial=bogus.yaml", "tune_app.export"]),
    "no data root": (["data=cellmap"], ["data.root is empty", "data=phantom"]),
    "missing data root": (["data=cellmap", "data.root=/bogus"], ["data.root=/bogus", "no such folder"]),
    "search with repeats": (["seeds=2"], ["seeds=2", "family=compare"]),
    "name with a slash": (["name=a/b"], ["name=a/b", "results_dir="]),
    "half a GPU too much": (["resources.gpus_per_trial=1.5"], ["resources.gpus_per_trial=1.5", "whole number"]),
    "three workers on two GPUs": (
        ["resources.gpus_per_trial=2", "resources.workers_per_trial=3"],
        ["workers_per_trial=3", "gpus_per_trial=2", "a card of its own", "gpus_per_trial=3"],
    ),
    "verbosity": (["verbose=7"], ["verbose=7", "[0, 2]"]),
    "NaN GPUs": (["resources.gpus_per_trial=nan"], ["gpus_per_trial=nan", "a fraction in [0, 1]"]),
    "endless GPUs": (["resources.gpus_per_trial=inf"], ["gpus_per_trial=inf", "a fraction in [0, 1]"]),
    "fewer GPUs than none": (["resources.gpus_per_trial=-0.5"], ["gpus_per_trial=-0.5", "a fraction in [0, 1]"]),
    "endless CPUs": (["resources.cpus_per_trial=inf"], ["resources.cpus_per_trial=inf", "finite number"]),
    "fewer CPUs than none": (["resources.num_cpus=-3"], ["resources.num_cpus=-3", "at least 0"]),
    "NaN learning rate": (["trainer.lr=nan"], ["trainer.lr=nan", "above 0"]),
    "endless learning rate": (["trainer.lr=inf"], ["trainer.lr=inf", "finite number"]),
    "endless voxel": (["data.voxel_nm=[8,8,inf]"], ["data.voxel_nm=[8.0, 8.0, inf]", "finite number"]),
    "NaN in the space": (["space.p=nan"], ["space.p=nan", "finite number"]),
    "long name": (["name=" + "n" * 300], ["name=nnn", "…: up to 200 bytes"]),
    "character that Hydra has no word for": (["name=ü"], ["name=ü: has a character", "\"name='ü'\""]),
    "the same in a list": (["data.classes=[nuc,wet amd,ü,'1e3']"], ["\"data.classes=[nuc,'wet amd','ü','1e3']\""]),
    "too many seeds": (["preset=seesaw_default", "seeds=1000000000"], ["seeds=1000000000", "[1, 1000]"]),
    "negative seed": (["seed=-1"], ["seed=-1", "[0, 9223372036854775807]"]),
    "negative seed of the split": (["data.split_seed=-1"], ["data.split_seed=-1", "[0, 9223372036854775807]"]),
    "too many trials": (["search.num_samples=1000000000"], ["search.num_samples=1000000000", "[1, 100000]"]),
    "too many points": (["search=grid", "search.grid_points=1000"], ["the grid has 1000000 points", "100000 trials"]),
    "too wide": (["model.width=1000000000"], ["model.width=1000000000", "[1, 1024]"]),
    "too wide, as a float": (["model.width=1e9"], ["model.width=1e9: must be a whole number"]),
    "no such program": (["notify.command=/bogus {event}"], ["notify.command=/bogus {event}", "PATH", "whole path"]),
    "no such word": (["notify.command=true {score}"], ["{score} stands for nothing", "{message}"]),
    "open quotes": (["notify.command=echo 'a"], ["cannot be split into words", "Close the quotes"]),
    "too many epochs": (["trainer.epochs=1000000000"], ["trainer.epochs=1000000000", "[1, 1000000]"]),
}


@pytest.mark.parametrize(("words", "fragments"), BAD.values(), ids=list(BAD))
def test_a_mistake_is_explained_once_and_leaves_nothing(type_run, words, fragments):
    code, out, err, left = type_run(*words)
    assert (code, out, left) == (2, "", [])
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert [fragment for fragment in fragments if fragment not in err] == []


def test_a_settings_file_with_a_wrong_key_is_named(type_run, tmp_path, monkeypatch):
    path = tmp_path / "settings.yaml"
    path.write_text("data_rot: /data\n")
    monkeypatch.setenv("TUNE_APP_SETTINGS", str(path))
    code, _, err, left = type_run("family=seesaw")
    assert (code, left) == (2, [])
    assert err == (
        f"error: {path}: unknown key data_rot. Did you mean data_root? Choices: data_root, cache_dir, results_dir\n"
    )


@pytest.mark.parametrize("content", [b"data_root: \xff", b"[" * 1500, b"data_root: [1", b"7"])
def test_a_settings_file_that_is_none_is_named(type_run, tmp_path, monkeypatch, content):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    monkeypatch.setenv("TUNE_APP_SETTINGS", str(path))
    code, _, err, left = type_run("family=seesaw")
    assert (code, left, err.count("\n")) == (2, [], 1)
    assert err.startswith(f"error: {path}")


def test_a_settings_file_that_is_not_there_is_missed_where_it_was_named(type_run, tmp_path, monkeypatch):
    monkeypatch.delenv("TUNE_APP_SETTINGS")
    for home in (str(tmp_path), "/dev/null"):
        monkeypatch.setenv("HOME", home)
        assert settings_of("results_dir=here").results_dir == "here"
    for path, said in ((tmp_path / "set.yaml", "there is no such file"), (tmp_path, "Is a directory")):
        monkeypatch.setenv("TUNE_APP_SETTINGS", str(path))
        code, _, err, left = type_run("family=seesaw")
        assert (code, left, err.count("\n")) == (2, [], 1)
        assert said in err
        assert str(path) in err


def test_the_settings_file_and_the_environment_say_where_things_are(tmp_path, monkeypatch):
    path = tmp_path / "settings.yaml"
    path.write_text(f"data_root: {tmp_path}/data\nresults_dir: {tmp_path}/mine\n")
    monkeypatch.setenv("TUNE_APP_SETTINGS", str(path))
    for name in ("TUNE_APP_DATA_ROOT", "TUNE_APP_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    assert settings_of("data=cellmap").data.root == f"{tmp_path}/data"
    assert settings_of().results_dir == f"{tmp_path}/mine"
    monkeypatch.setenv("TUNE_APP_RESULTS", f"{tmp_path}/elsewhere")
    assert settings_of().results_dir == f"{tmp_path}/elsewhere"
    assert settings_of("results_dir=here").results_dir == "here"


def test_a_file_in_the_way_of_the_results(type_run, tmp_path):
    (tmp_path / "file").write_text("precious")
    code, _, err, left = type_run("results_dir=file/results")
    assert (code, left) == (2, [])
    assert "Not a directory" in err
    assert "results_dir=PATH" in err
    assert (tmp_path / "file").read_text() == "precious"


def test_the_name_of_an_existing_sweep(type_run, tmp_path):
    (tmp_path / "results" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "mine" / "manifest.json").write_text("{}")
    code, _, err, left = type_run("name=mine")
    assert (code, left) == (2, [])
    assert "exists already" in err
    assert "resume=mine" in err
    assert (tmp_path / "results" / "mine" / "manifest.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("a: [1", "no valid YAML"),
        ("- 1", "lacks loss, data, model, trainer"),
        ("loss: {name: seesaw}", "lacks data"),
        ("{loss: {name: seesaw}, data: {}, model: {}, trainer: {}}", "lacks loss.params"),
    ],
)
def test_a_file_that_is_no_exported_trial(type_run, tmp_path, text, fragment):
    (tmp_path / "trial.yaml").write_text(text)
    code, _, err, left = type_run("trial=trial.yaml")
    assert (code, left) == (2, [])
    assert fragment in err
    assert "tune_app.export" in err


EXPORTED = """
family: tversky
name: best
seed: 7
loss: {name: tversky, params: {fp_weight: 0.3, fn_weight: 0.7}}
data: {name: phantom, patch: [1, 32, 32]}
model: {width: 4, depth: 2}
trainer: {epochs: 2}
"""


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"a": "[" * 3000 + "]" * 3000}, "nested too deeply"),
        ({"name": "../../elsewhere"}, "name='../../elsewhere': must be a name"),
        ({"preset": "[a]"}, "must be a name"),
        ({"family": '"a\\tb"'}, "family='a"),
        ({"name": "n" * 300}, "up to 200 bytes"),
        ({"seed": "[1]"}, "seed=[1]: must be a whole number"),
        ({"seed": ".nan"}, "seed=nan"),
        ({"seed": "2024-01-01"}, "seed=2024-01-01"),
        ({"seed": "1" + "0" * 40}, "must be a whole number from 0"),
        ({"loss": "{name: [a], params: {}}"}, "loss needs a name"),
        ({"loss": "{name: tversky, params: [1, 2]}"}, "a mapping of params"),
        ({"loss": "{name: tversky, params: }"}, "a mapping of params"),
        (
            {
                "a": "&a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]",
                "b": "&b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]",
                "c": "&c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]",
                "d": "&d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]",
                "e": "[*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]",
            },
            "more than 10000 values",
        ),
    ],
)
def test_an_exported_trial_with_an_odd_value(type_run, tmp_path, change, fragment):
    kept = [line for line in EXPORTED.splitlines() if line.partition(":")[0] not in change]
    (tmp_path / "trial.yaml").write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in change.items())]))
    code, out, err, left = type_run("trial=trial.yaml")
    assert (code, out, left) == (2, "", [])
    assert fragment in err
    assert err.count("\n") == 1
    assert "tune_app.export" in err


def test_an_exported_trial_lies_under_what_is_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trial.yaml").write_text(EXPORTED)
    words = ["trial=trial.yaml", "trainer.lr=0.5", "trainer.epochs=5", "data.root=it's (here), ü"]
    composed = compose("run", Settings, words)
    settings = located(with_exported(composed))
    assert (settings.family, settings.trainer.epochs, settings.trainer.lr) == ("tversky", 5, 0.5)
    assert (settings.model.width, settings.data.patch) == (4, [1, 32, 32])
    assert settings.data.root == str(tmp_path / "it's (here), ü")
    assert settings.trial == str(tmp_path / "trial.yaml")


@pytest.mark.parametrize(("words", "seed"), [([], 7), (["seed=0"], 0), (["seed=3"], 3)])
def test_the_seed_of_an_exported_trial_is_the_exported_one_unless_another_is_typed(tmp_path, words, seed):
    (tmp_path / "trial.yaml").write_text(EXPORTED)
    composed = compose("run", Settings, [f"trial={tmp_path}/trial.yaml", *words])
    assert with_exported(composed).seed == seed


def test_a_trainer_sets_its_own_section_only():
    quick, published = (settings_of(*words).as_dict() for words in ([], ["trainer=published"]))
    assert {key for key in quick if quick[key] != published[key]} == {"trainer"}


def test_a_group_that_is_typed_replaces_the_exported_one(tmp_path):
    (tmp_path / "trial.yaml").write_text(EXPORTED)
    composed = compose("run", Settings, [f"trial={tmp_path}/trial.yaml", "trainer=published"])
    settings = with_exported(composed)
    assert (settings.trainer.epochs, settings.model.width) == (60, 4)


def test_an_exported_trial_with_an_unknown_setting(type_run, tmp_path):
    (tmp_path / "trial.yaml").write_text(EXPORTED.replace("{epochs: 2}", "{epoch: 2}"))
    code, _, err, left = type_run("trial=trial.yaml")
    assert (code, left) == (2, [])
    assert "trial.yaml" in err
    assert "epoch" in err


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = located(settings_of("data.root=a", "data.cache_dir=b", "frequencies=c.json"))
    assert settings.data.root == str(tmp_path / "a")
    assert settings.data.cache_dir == str(tmp_path / "b")
    assert settings.frequencies == str(tmp_path / "c.json")
    assert located(settings_of()).frequencies == "sampled"


PATHS = [
    "~/Zürich data (v2), copy",
    "/scratch/[a,b]/{c}",
    "it's here",
    'a "quoted" name',
    r"back\slash\\",
    r"ends\'",
    "a=b",
    "$HOME",
    "1e5",
    "null",
    "*?:;&|<>#@!%^",
    "日本",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_written_as_in_any_shell(path):
    words = [f"data.root={path}", f"results_dir={path}", f"trial={path}", f"cluster.token_path={path}", "++seed=3"]
    composed = compose("run", Settings, words)
    settings = composed.settings
    expected = str(Path(path).expanduser())
    assert {settings.data.root, settings.results_dir, settings.trial, settings.cluster.token_path} == {expected}
    assert composed.given_keys == ["data.root", "results_dir", "trial", "cluster.token_path", "seed"]
    assert settings_of(*plain(composed.overrides)) == settings, "as they are handed to a job"
    summary = compose("summary", SummarySettings, [f"sweep={path}"])
    assert summary.settings.sweep == expected


def test_a_path_in_quotes_for_hydra_an_interpolation_and_none_are_left_alone(monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    settings = settings_of("data.root='/a, b'", 'data.cache_dir="/c d"', "results_dir=${oc.env:WHERE}/r", "trial=")
    assert (settings.data.root, settings.data.cache_dir) == ("/a, b", "/c d")
    assert (settings.results_dir, settings.trial) == ("/data/r", "")


def test_counts_that_cannot_be_read(type_run, monkeypatch):
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", planned.dataset_in_memory)
    code, _, err, left = type_run("family=static", "frequencies=bogus.json")
    assert (code, left) == (2, [])
    assert "bogus.json" in err
    assert "tune_app.frequencies" in err


def test_published_counts_without_a_class(type_run, monkeypatch):
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", planned.dataset_in_memory)
    code, _, err, left = type_run("family=static", "frequencies=published", "data.classes=[nuc,lyso]")
    assert (code, left) == (2, [])
    assert "lyso" in err


def test_help_names_the_groups_and_the_families(type_run):
    code, out, err, left = type_run("--help")
    assert (code, err, left) == (0, "", [])
    for word in (
        "seesaw",
        "compare",
        "experiment: class_weighting, l40s_comparison, none",
        "epochs: 9",
        "resume=latest",
    ):
        assert word in out


def test_cfg_job_prints_the_settings_and_runs_nothing(type_run, monkeypatch):
    monkeypatch.setenv("TUNE_APP_RESULTS", "/elsewhere")
    code, out, _, left = type_run("--cfg", "job", "trainer.epochs=4", "space.p=0.8", "experiment=class_weighting")
    assert (code, left) == (0, [])
    assert "epochs: 4" in out
    assert "p: 0.8" in out
    assert "width: 64" in out
    assert "results_dir: /elsewhere" in out
    assert "${" not in out


def test_the_published_experiment_in_one_word():
    settings = settings_of("experiment=class_weighting", "family=compare", "seeds=3", "data.root=/data")
    trainer = settings.trainer
    assert (settings.model.width, trainer.epochs, trainer.iterations_per_epoch) == (64, 60, 100)
    assert (trainer.batch_size, trainer.validation_batches, trainer.count_update_every) == (24, 20, 50)
    assert (settings.data.sampling, settings.data.patch) == ("crop", [1, 256, 256])
    assert not settings.early_stopping
    assert settings.experiment_name == "class_weighting"


def test_exit_codes(capsys):
    def raising(error: BaseException) -> int:
        def act() -> int:
            raise error

        return exit_code(act)

    assert exit_code(lambda: None) == 0
    assert raising(InputError("bad")) == 2
    assert raising(RunFailed("broken")) == 1
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "error: bad\nerror: broken\ninterrupted\n"


def test_what_takes_long_before_the_first_trial_is_said_when_it_begins(tmp_path, monkeypatch, capsys):
    told = f"Generating the phantom into {tmp_path / 'made'} (once).\n"
    monkeypatch.setattr(phantom, "_write", lambda *_: print(capsys.readouterr().err, end=""))

    def make() -> None:
        phantom.make(tmp_path / "made")

    assert exit_code(make) == 0
    assert capsys.readouterr() == (told, ""), "said before it is made"
    assert exit_code(make) == 0
    assert capsys.readouterr() == ("", ""), "nothing is made a second time"


def test_a_verb_without_its_dot(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tune_app", "run", "family=seesaw"])
    with pytest.raises(SystemExit, match="2"):
        list_verbs()
    assert "python -m tune_app.run" in capsys.readouterr().err


def test_the_program_lists_its_verbs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tune_app"])
    list_verbs()
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS)


def test_weights_and_biases_not_installed(type_run, monkeypatch):
    monkeypatch.setattr("tune_app.sweep.begin.importlib.util.find_spec", lambda name: None)
    code, _, err, left = type_run("wandb_project=mine")
    assert (code, left) == (2, [])
    assert "wandb_project=mine" in err
    assert "pip install -e .[wandb]" in err


@pytest.mark.parametrize("verb", ["run", "summary"])
def test_composing_leaves_the_loggers_of_the_process_alone(verb):
    """Hydra's `disabled` logging switches every existing logger off, and with it the warnings of the data layer."""
    logger, root = logging.getLogger("trainables.data"), logging.getLogger()
    before = (root.level, list(root.handlers))
    compose(verb, {"run": Settings, "summary": SummarySettings}[verb], [])
    assert not logger.disabled
    assert (root.level, list(root.handlers)) == before


@pytest.mark.parametrize(
    ("word", "classes"), [("nuc", ["nuc"]), ("nuc,pm", ["nuc", "pm"]), ("[nuc,pm]", ["nuc", "pm"]), ("auto", ["auto"])]
)
def test_a_list_may_be_written_without_brackets(word, classes):
    assert settings_of(f"data.classes={word}").data.classes == classes


def test_data_that_cannot_be_generated_where_it_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "phantom"
    with pytest.raises(InputError, match=re.escape(f"out={out}: cannot be written (")):
        generate(DataVerbSettings(action="make", out=str(out)))


def test_what_is_generated_is_that_of_the_data_that_were_named(tmp_path, capsys):
    fires = {"name": "raster_series", "classes": ["fire"], "patch": [1, 64, 64]}
    assert generate(DataVerbSettings(action="make", out=str(tmp_path / "fires"), data=DataSettings(**fires))).code == 0
    assert f"tune_app.run data=wildfire data.root={tmp_path / 'fires'}" in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"data\.name=cellmap: has no generated data"):
        generate(DataVerbSettings(action="make", out=str(tmp_path / "cells"), data=DataSettings(name="cellmap")))
