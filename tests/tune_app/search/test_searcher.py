"""The searcher without Ray: what it proposes, what it tells the study, and how it goes on after a crash."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from driven import begin, dice, finish_all, searcher_of, study_of, train
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from planned import settings_of

from search_spaces import parameters_of
from trainables.objective import OUT_OF_PATIENCE, Objective
from tune_app.results.trial import read_reported
from tune_app.search.arms import planned_arms, searched_space
from tune_app.search.recovery import reconcile, recorded_curves
from tune_app.search.searcher import untried
from tune_app.search.study import JOURNAL, curve, open_study

RANDOM = ("family=seesaw", "search=random", "search.num_samples=7", "trainer.epochs=4")
TPE = ("family=seesaw", "search.num_samples=12", "search.startup_trials=4", "trainer.epochs=4")


DICE = Objective(metric="mean_dice")


def rows(*scores: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "mean_dice": score} for epoch, score in enumerate(scores, start=1)]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return study_of(folder).get_trials()


def test_a_trial_that_reached_its_last_epoch_is_complete_with_its_best_value(tmp_path):
    searcher = searcher_of(tmp_path, *RANDOM)
    trial_id, config = begin(searcher)
    train(searcher, trial_id, config, 3)
    last = {"epoch": 4, "mean_dice": 0.3, "best_mean_dice": 0.75, "done": True}  # Ray gives it to complete only
    searcher.on_trial_complete(trial_id, last)
    (trial,) = trials_of(tmp_path)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    assert curve(trial) == [(1, dice(config, 1)), (2, dice(config, 2)), (3, dice(config, 3)), (4, 0.3)]
    told = {"number": 0, "name": "0000_seesaw_default", "preset": "seesaw_default", "planned": True}
    told |= {"family": "seesaw", "sections": {}, "baseline": False}
    assert config["run"] == told | {"params": {"p": 0.8, "q": 2.0}}, "the folder says what the study does"
    assert trial.params == {"p": 0.8, "q": 2.0}, "the sampler learns from a preset"
    assert trial.user_attrs["preset"] == "seesaw_default"
    assert trial.user_attrs["loss"] == config["loss"] == {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}


def test_a_trial_stopped_early_is_pruned_with_its_curve(tmp_path):
    searcher = searcher_of(tmp_path, *RANDOM)
    trial_id, config = begin(searcher)
    row = train(searcher, trial_id, config, 1)
    searcher.on_trial_complete(trial_id, {**row, "epoch": 2, "mean_dice": 0.2})
    (trial,) = trials_of(tmp_path)
    assert trial.state == TrialState.PRUNED
    assert curve(trial) == [(1, dice(config, 1)), (2, 0.2)]
    assert trial.user_attrs.get("reason", "") == ""


def test_a_trial_out_of_patience_is_complete_with_its_best(tmp_path):
    """It ended by itself: no early stop that a sampler should take for a worse configuration."""
    searcher = searcher_of(tmp_path, *RANDOM)
    trial_id, config = begin(searcher)
    row = train(searcher, trial_id, config, 2)
    searcher.on_trial_complete(trial_id, {**row, "epoch": 2, "best_mean_dice": 0.7, "stopped": OUT_OF_PATIENCE})
    (trial,) = trials_of(tmp_path)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.user_attrs["reason"] == "out of patience"


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        ({"epoch": 2, "mean_dice": math.nan, "diagnosis": "nan"}, False, "nan"),
        ({"epoch": 4, "mean_dice": math.nan, "diagnosis": ""}, False, "nan"),
        ({"epoch": 4, "mean_dice": 0.5, "diagnosis": "nan"}, False, "nan"),
        (None, True, "error"),
        ({"epoch": 2, "mean_dice": 0.4}, True, "error"),
        ({}, False, "error"),
    ],
)
def test_a_broken_trial_is_failed_with_a_reason(tmp_path, result, error, reason):
    searcher = searcher_of(tmp_path, *RANDOM)
    trial_id, config = begin(searcher)
    train(searcher, trial_id, config, 1)
    searcher.on_trial_complete(trial_id, result, error=error)
    (trial,) = trials_of(tmp_path)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == reason
    assert all(math.isfinite(value) for value in trial.intermediate_values.values())


def test_a_row_reported_twice_counts_once(tmp_path):
    searcher = searcher_of(tmp_path, *RANDOM)
    trial_id, config = begin(searcher)
    train(searcher, trial_id, config, 2)
    searcher.on_trial_result(trial_id, {"epoch": 2, "mean_dice": 0.9})
    assert curve(trials_of(tmp_path)[0]) == [(1, dice(config, 1)), (2, dice(config, 2))]


def test_the_number_of_trials_is_kept(tmp_path):
    configs = finish_all(searcher_of(tmp_path, *RANDOM), 4)
    assert [config["run"]["number"] for config in configs] == list(range(7))
    assert begin(searcher_of(tmp_path, *RANDOM)) is None, "a finished sweep has nothing left"


@pytest.mark.parametrize("words", [RANDOM, TPE], ids=["random", "tpe"])
def test_the_same_seed_proposes_the_same_with_one_slot(tmp_path, words):
    for name in "abc":
        (tmp_path / name).mkdir()
    runs = [finish_all(searcher_of(tmp_path / name, *words), 4) for name in "ab"]
    assert runs[0] == runs[1]
    other = finish_all(searcher_of(tmp_path / "c", *words, "seed=1"), 4)
    assert [c["loss"] for c in other[3:]] != [c["loss"] for c in runs[0][3:]]
    losses = {json.dumps(config["loss"]) for config in runs[0]}
    assert len(losses) == len(runs[0]), "no configuration twice"


@pytest.mark.parametrize("words", [RANDOM, TPE], ids=["random", "tpe"])
@pytest.mark.parametrize("killed_at", [1, 4, 6])
def test_a_restarted_search_is_the_uninterrupted_one(tmp_path, words, killed_at):
    """Killed in trial `killed_at` after one epoch; a new searcher over the same journal continues that trial first."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = finish_all(searcher_of(whole, *words), 4)
    killed = searcher_of(cut, *words)
    before = finish_all(killed, 4, until=lambda number: number == killed_at)
    trial_id = next(iter(killed._live))
    train(killed, trial_id, before[-1], 1)

    restarted = searcher_of(cut, *words)
    trial_id, config = begin(restarted)
    assert config == before[-1]
    restarted.on_trial_complete(trial_id, train(restarted, trial_id, config, 4))
    assert before + finish_all(restarted, 4) == expected
    for a, b in zip(trials_of(whole), trials_of(cut), strict=True):
        assert (a.number, a.state, a.params, a.values, a.intermediate_values, a.user_attrs) == (
            b.number,
            b.state,
            b.params,
            b.values,
            b.intermediate_values,
            b.user_attrs,
        )


def test_unfinished_trials_go_on_in_order_before_anything_new(tmp_path):
    killed = searcher_of(tmp_path, *RANDOM)
    begun = [begin(killed) for _ in range(4)]
    killed.on_trial_complete(begun[1][0], train(killed, *begun[1], 4))
    restarted = searcher_of(tmp_path, *RANDOM)
    again = [begin(restarted) for _ in range(4)]
    assert [config["run"]["number"] for _, config in again] == [0, 2, 3, 4]
    assert [config for _, config in again[:3]] == [begun[i][1] for i in (0, 2, 3)]


@pytest.mark.parametrize("words", [RANDOM, TPE], ids=["random", "tpe"])
def test_a_crash_while_a_trial_is_recorded(tmp_path, words):
    """Whatever prefix of the journal survives, the search ends with the same trials as an uninterrupted one."""
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = finish_all(searcher_of(whole, *words), 4)
    journal = (whole / JOURNAL).read_bytes()
    beginning = [i for i, line in enumerate(journal.splitlines()) if b'"user_attrs":{"name"' in line]
    offsets = [len(b"".join(journal.splitlines(keepends=True)[:i])) for i in beginning]
    for number, offset in list(enumerate(offsets))[2:6]:
        for torn in (0, 1, 150):  # the line of the new trial is not there, or only its beginning
            folder = tmp_path / f"{number}_{torn}"
            folder.mkdir()
            (folder / JOURNAL).write_bytes(journal[: offset + torn])
            assert finish_all(searcher_of(folder, *words), 4) == expected[number:]
            assert len(trials_of(folder)) == len(expected)


def test_a_trial_is_recorded_whole_in_one_line(tmp_path):
    finish_all(searcher_of(tmp_path, *RANDOM), 4, until=lambda number: number == 3)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    created = [json.loads(line) for line in lines if '"user_attrs":{' in line]
    assert len(created) == 4
    attributes = {"name", "label", "family", "preset", "loss", "sections", "seed", "signature", "baseline", "planned"}
    assert set(created[3]["user_attrs"]) == attributes
    assert set(created[3]["params"]) == {"p", "q"}
    assert json.loads(lines[-1]) == created[3], "nothing else is written by proposing"


def test_fixed_parameters_are_used_and_left_to_no_sampler(tmp_path):
    words = (*RANDOM[:1], "space.p=0.7", "space.q=[1.0,3.0]", "search=random", "search.num_samples=5")
    configs = finish_all(searcher_of(tmp_path, *words), 9)
    assert len(configs) == 5
    assert all(config["loss"]["params"]["p"] == 0.7 for config in configs)
    assert all(1 <= config["loss"]["params"]["q"] <= 3 for config in configs)
    assert all(set(trial.params) == {"q"} for trial in trials_of(tmp_path))


def test_a_space_that_is_one_point(tmp_path):
    configs = finish_all(searcher_of(tmp_path, "family=seesaw", "space.p=0.7", "space.q=1", "search.num_samples=2"), 9)
    assert [config["loss"]["params"] for config in configs] == [{"p": 0.7, "q": 1.0}]


@pytest.mark.parametrize("search", ["search=random", "search=optuna"])
def test_a_space_of_choices_is_tried_without_repeats(tmp_path, search):
    words = ("family=balanced_softmax", "space.tau=1.0", "space.apply_at=[train,inference,paper]", search)
    configs = finish_all(searcher_of(tmp_path, *words, "search.num_samples=2"), 9)
    configs += finish_all(searcher_of(tmp_path, *words, "search.num_samples=12"), 9)
    tried = [str(config["loss"]["params"]) for config in configs]
    assert len(tried) == len(set(tried)) == 3
    assert begin(searcher_of(tmp_path, *words, "search.num_samples=13")) is None


@pytest.mark.parametrize("search", ["search=random", "search=optuna"])
def test_choices_beside_fixed_families_are_tried_without_repeats(tmp_path, search):
    words = (
        "family=all",
        "space.family=[seesaw,tversky]",
        "space.seesaw.p=1",
        "space.seesaw.q=[1.0,1.0]",
        "space.tversky.fp_weight=0.5",
        "space.tversky.fn_weight=0.5",
        "search.presets_first=false",
    )
    configs = finish_all(searcher_of(tmp_path, *words, search, "search.num_samples=9"), 9)
    assert sorted(config["loss"]["name"] for config in configs) == ["seesaw", "tversky"]


@pytest.mark.parametrize("search", ["search=random", "search=optuna"])
def test_points_of_all_families_are_conditional(tmp_path, search):
    words = ("family=all", search, "search.num_samples=45", "search.startup_trials=25", "trainer.epochs=2")
    configs = finish_all(searcher_of(tmp_path, *words), 2)
    space = searched_space(settings_of(*words))
    searched = [trial for trial in trials_of(tmp_path) if not trial.user_attrs["planned"]]
    assert len(configs) == 45
    assert len(searched) > 20
    for trial in searched:
        family = trial.params["family"]
        assert set(trial.params) == {"family", *parameters_of(space, family)}
        assert trial.user_attrs["family"] == family
        assert configs[trial.number]["loss"]["name"] == family
    assert len({trial.params["family"] for trial in searched}) >= 3


def test_grid_and_compare_are_their_arms(tmp_path):
    for name, words, expected in (
        ("grid", ("family=tversky", "search=grid", "search.grid_points=2"), None),
        ("compare", ("family=compare",), 15),
    ):
        (tmp_path / name).mkdir()
        configs = finish_all(searcher_of(tmp_path / name, *words), 9)
        assert expected is None or len(configs) == expected
        assert len({config["run"]["name"] for config in configs}) == len(configs)
        assert all(trial.user_attrs["planned"] for trial in trials_of(tmp_path / name))


def test_more_trials_for_a_finished_search(tmp_path):
    """Planned arms that did not fit the first time come first, then searched ones."""
    first = finish_all(searcher_of(tmp_path, "family=seesaw", "search=random", "search.num_samples=2"), 9)
    more = finish_all(searcher_of(tmp_path, "family=seesaw", "search=random", "search.num_samples=5"), 9)
    names = [config["run"]["name"] for config in first + more]
    assert names[:3] == ["0000_seesaw_default", "0001_seesaw_strong_mitigate", "0002_seesaw_strong_compensate"]
    assert [name[:4] for name in names] == ["0000", "0001", "0002", "0003", "0004"]


def test_an_arm_that_is_planned_later_is_tried_and_no_other_twice(tmp_path):
    """As when the baseline is added to a sweep that was run without it."""
    finish_all(searcher_of(tmp_path, "family=compare"), 9, until=lambda number: number == 3)
    arms = planned_arms(settings_of("family=compare"), {})
    baseline = replace(arms[0], seed=7)
    left = untried([baseline, *arms], trials_of(tmp_path))
    assert left == [baseline, *arms[4:]]
    assert untried([arms[0], arms[0], *arms], trials_of(tmp_path))[:2] == [arms[0]] * 2, "twice planned is twice tried"


def test_an_extended_random_search_is_the_longer_one(tmp_path):
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
    long = finish_all(searcher_of(tmp_path / "once", *RANDOM), 4)
    short = [word.replace("num_samples=7", "num_samples=5") for word in RANDOM]
    assert (
        finish_all(searcher_of(tmp_path / "twice", *short), 4) + finish_all(searcher_of(tmp_path / "twice", *RANDOM), 4)
        == long
    )


def test_tpe_learns(tmp_path):
    """Late proposals lie nearer to the optimum of a simple objective than random ones do."""

    def late_error(search: str) -> float:
        folder = tmp_path / search
        folder.mkdir()
        searcher = searcher_of(
            folder,
            "family=seesaw",
            f"search={search}",
            "search.num_samples=40",
            "trainer.epochs=1",
            "search.presets_first=false",
        )
        errors = []
        while (begun := begin(searcher)) is not None:
            trial_id, config = begun
            params = config["loss"]["params"]
            errors.append((params["p"] - 1.5) ** 2 + ((params["q"] - 1) / 2) ** 2)
            score = 1 - errors[-1]
            searcher.on_trial_complete(trial_id, {"epoch": 1, "mean_dice": score, "best_mean_dice": score})
        return sum(errors[25:]) / 15

    assert late_error("optuna") < 0.5 * late_error("random")


def test_the_study_is_plain_optuna(tmp_path):
    finish_all(searcher_of(tmp_path, *TPE), 4)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    study = optuna.load_study(study_name=None, storage=storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert len(study.trials) == 12
    assert study.best_value == max(trial.value for trial in study.trials)
    importances = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
    )
    assert set(importances) == {"p", "q"}


def test_optuna_dashboard_serves_the_study(tmp_path):
    """In a process of its own: the dashboard's web framework warns of its own age."""
    searcher = searcher_of(tmp_path, *RANDOM)
    finish_all(searcher, 4, until=lambda number: number == 5)
    failing, _ = begin(searcher)
    searcher.on_trial_complete(failing, error=True)
    code = """
import io, json, sys
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import wsgi
app = wsgi(JournalStorage(JournalFileBackend(sys.argv[1])))
def get(path):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80",
               "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http", "QUERY_STRING": ""}
    return json.loads(b"".join(app(environ, lambda status, headers, exc_info=None: print(status, file=sys.stderr))))
studies = get("/api/studies")["study_summaries"]
detail = get(f"/api/studies/{studies[0]['study_id']}")
reason = [a["value"] for a in detail["trials"][6]["user_attrs"] if a["key"] == "reason"]
states = [t["state"] for t in detail["trials"]]
print(json.dumps([studies[0]["study_name"], detail["objective_names"], states, reason]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / JOURNAL)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == ["sweep", ["mean Dice"], [*["Complete"] * 5, "Running", "Fail"], ["error"]]


def result_json(folder: Path, name: str, rows: list[dict], torn: str = "") -> Path:
    path = folder / "trials" / name / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return path


def test_a_torn_last_line_of_result_json_is_left_out(tmp_path):
    path = result_json(tmp_path, "a", [{"epoch": 1}, {"epoch": 2}], torn='{"epoch": 3, "mean_di')
    assert [row["epoch"] for row in read_reported(path)] == [1, 2]
    path.write_bytes(b'{"epoch": 1}\n{"epoch": 2}\n\xff\xfe{"epo')
    assert [row["epoch"] for row in read_reported(path)] == [1, 2]
    path.write_text('[1]\n"word"\n{"other": 1}\n')
    assert read_reported(path) == []
    assert read_reported(tmp_path / "nothing") == []


def row(epoch: int, value: float = 0.5, **more: object) -> dict:
    return {"epoch": epoch, "mean_dice": value, "best_mean_dice": value, **more}


def test_the_study_catches_up_with_what_was_logged(tmp_path):
    """Killed between the log of a row and its word to the study."""
    killed = searcher_of(tmp_path, *RANDOM)
    names = [begin(killed)[1]["run"]["name"] for _ in range(6)]
    result_json(tmp_path, names[0], [row(e, e / 10) for e in (1, 2, 3)] + [row(4, 0.2, best_mean_dice=0.3, done=True)])
    result_json(tmp_path, names[1], [row(1, 0.1), row(2, 0.05, done=True)])
    result_json(tmp_path, names[2], [row(1, 0.1), row(2, math.nan, diagnosis="nan", done=True)])
    result_json(tmp_path, names[3], [row(1, 0.1), row(2, 0.2)], torn='{"epoch": 3')
    result_json(tmp_path, names[4], [], torn="{")
    reconcile(study_of(tmp_path), tmp_path, DICE, 4)
    trials = trials_of(tmp_path)
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING", "RUNNING"]
    assert trials[0].value == 0.3
    assert trials[2].user_attrs["reason"] == "nan"
    curves = recorded_curves(study_of(tmp_path), tmp_path, DICE)
    assert curves[names[0]] == rows(0.1, 0.2, 0.3, 0.2)
    assert curves[names[1]] == rows(0.1, 0.05)
    assert str(curves[names[2]]) == str(rows(0.1, math.nan))
    assert curves[names[3]] == rows(0.1, 0.2)
    assert curves[names[4]] == curves[names[5]] == []

    before = (tmp_path / JOURNAL).read_bytes()
    reconcile(study_of(tmp_path), tmp_path, DICE, 4)
    assert (tmp_path / JOURNAL).read_bytes() == before, "once is enough"
    restarted = searcher_of(tmp_path, *RANDOM)
    assert [begin(restarted)[1]["run"]["number"] for _ in range(4)] == [3, 4, 5, 6]


def test_a_renamed_folder_keeps_its_study(tmp_path):
    searcher = searcher_of(tmp_path, *RANDOM)
    begin(searcher)
    assert len(open_study(tmp_path, "another name", DICE).get_trials()) == 1
