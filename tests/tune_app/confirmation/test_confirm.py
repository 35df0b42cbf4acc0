"""Confirmations without Ray: which arms, which seeds, what is refused, what is written, and who reads it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from documents import checked, checked_end
from filelock import FileLock
from planned import dataset_in_memory, settings_of
from sweep_folder import UNIFORM, WrittenTrial, add_to_study, open_study, summarise, write_sweep, write_trial

from cluster.connect import Connection
from search_spaces import ClassCounts
from trainables.errors import SettingsError
from tune_app.confirmation import confirm as confirm_module
from tune_app.confirmation.arms import Plan, _chosen, choose_arms, fresh_seed, make_plan, read_plan
from tune_app.confirmation.confirm import begin, confirm, take_up
from tune_app.confirmation.runs import replicates_of, runs_to_train
from tune_app.confirmation.settings import ConfirmSettings
from tune_app.errors import InputError
from tune_app.evidence import EarlierNoise
from tune_app.exporting.export import ExportSettings, export
from tune_app.report import ReportSettings, report
from tune_app.results.finding import confirmed_order, read_confirmation
from tune_app.results.folders import ARMS
from tune_app.results.sweep import Sweep
from tune_app.search.arms import Arm
from tune_app.settings.command_line import Composed, compose
from tune_app.settings.stored import FREQUENCIES
from tune_app.sweep import resume
from tune_app.sweep.prepare import Prepared
from tune_app.sweep.runner import Outcome

CLASSES = ("nuc", "pm")
COUNTS = ClassCounts(CLASSES, (90_000, 5_000), (1_000_000,) * 2, "test")
NAN = math.nan
BEST = WrittenTrial(
    label="seesaw_p0.8", params={"p": 0.8, "q": 2.0}, dice=[(0.5, 0.5), (0.8, 0.8), (0.7, 0.7)], signature="best"
)
TWIN = replace(BEST, label="seesaw_p0.80", dice=[(0.6, 0.6)] * 3)
SECOND = WrittenTrial(
    label="tversky_0.3_0.7",
    family="tversky",
    preset="tversky_0.3_0.7",
    loss={"fp_weight": 0.3, "fn_weight": 0.7},
    dice=[(0.65, 0.65)] * 3,
    seed=3,
)
STOPPED = WrittenTrial(label="seesaw_p1.9", dice=[(0.4, 0.4)], status="stopped early", params={"p": 1.9, "q": 1.0})
BASELINE = WrittenTrial(
    label="weight_uniform",
    family="static",
    preset="weight_uniform",
    dice=[(0.3, 0.3), (0.5, 0.5), (0.5, 0.5)],
    loss={"weights": [1.0, 1.0]},
    signature=UNIFORM,
)
BROKEN = WrittenTrial(label="seesaw_p1.1", dice=[(0.9, 0.9), (NAN, NAN)], status="failed: nan")


Runs = list[tuple[str, int]]


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the sweep results/mine with these trials, all of one class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNE_APP_RESULTS", raising=False)
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)

    def sweep(*trials: WrittenTrial, status: str = "finished", words: tuple[str, ...] = ()) -> Path:
        chosen = trials or (SECOND, BEST, TWIN, STOPPED, BASELINE, BROKEN)
        folder = write_sweep(tmp_path / "results" / "mine", chosen, status=status, classes=CLASSES)
        settings = settings_of("family=all", "trainer.epochs=3", "resources.gpus_per_trial=0.25", *words).as_dict()
        settings["data"]["classes"] = list(CLASSES)
        (folder / FREQUENCIES).write_text(json.dumps(asdict(COUNTS)))
        (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["data"]["fingerprint"] = ""
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return sweep


def composed(*words: str) -> Composed[ConfirmSettings]:
    made = compose("confirm", ConfirmSettings, words)
    assert made is not None
    return made


def fixed_plan(folder: Path, **more: int | float | str) -> Plan:
    return make_plan(Sweep(folder), COUNTS, 1e9, **{"top": 2, "rounds": 2, "budget": 0.0, "device": "CPU"} | more)


# Which arms, which seeds.


def test_the_first_configurations_and_the_baseline_are_chosen_each_once(swept) -> None:
    arms = choose_arms(Sweep(swept()), COUNTS, 1e9, top=2)
    assert [arm.name for arm in arms] == ["seesaw_p0.8", "tversky_0.3_0.7", "weight_uniform"]
    best, second, baseline = arms
    assert best.trials == ("0001_seesaw_p0.8", "0002_seesaw_p0.80"), "two names of one configuration"
    assert best.loss == {"name": "seesaw", "params": {"p": 0.8, "q": 2.0}}
    assert best.search_score == pytest.approx(0.8)
    assert second.preset == "tversky_0.3_0.7"
    assert baseline.trials == ("0004_weight_uniform",)
    assert [arm.simplicity for arm in arms] == [2.5, 1.0, 0.0]


def test_more_than_there_are_is_all_there_are_and_failures_are_not_among_them(swept) -> None:
    names = [arm.name for arm in choose_arms(Sweep(swept()), COUNTS, 1e9, top=99)]
    assert names == ["seesaw_p0.8", "tversky_0.3_0.7", "seesaw_p1.9", "weight_uniform"]


def test_a_sweep_without_the_baseline_gets_it(swept) -> None:
    baseline = choose_arms(Sweep(swept(BEST)), COUNTS, 1e9, top=1)[-1]
    assert (baseline.name, baseline.trials, math.isnan(baseline.search_score)) == ("weight_uniform", (), True)
    assert baseline.loss["name"] == "static"


def test_a_run_costs_the_mean_epoch_times_the_budget(swept) -> None:
    """Thirty seconds per epoch, three epochs, one CPU."""
    for arm in choose_arms(Sweep(swept()), COUNTS, 1e9, 2):
        assert arm.cost == pytest.approx(3 * 30 / 3600)


def test_a_configuration_of_another_size_costs_its_own_epochs(swept) -> None:
    folder = swept()
    (path,) = folder.glob("trials/*tversky_0.3_0.7/config.json")
    config = json.loads(path.read_text())
    config["model"]["width"], config["resources"]["cpus_per_trial"] = 8, 2
    path.write_text(json.dumps(config))
    costs = {arm.name: arm.cost for arm in choose_arms(Sweep(folder), COUNTS, 1e9, 2)}
    assert costs["tversky_0.3_0.7"] == pytest.approx(2 * 3 * 30 / 3600)
    assert costs["seesaw_p0.8"] == costs["weight_uniform"] == pytest.approx(3 * 30 / 3600)


def test_what_a_point_set_besides_the_loss_is_trained_again(swept) -> None:
    folder = swept()
    found = replace(Sweep(folder).trial("0001_seesaw_p0.8"), sections={"trainer": {"lr": 1e-3}})
    chosen = _chosen("seesaw_p0.8", [found], 1.0)
    assert chosen.arm(7).trial(COUNTS) == {"loss": found.loss, "trainer": {"lr": 1e-3}}
    replace(fixed_plan(folder), arms=(chosen,)).write(folder)
    assert read_plan(folder).arms == (chosen,)


def test_seeds_are_fresh_and_the_same_for_all_arms(swept) -> None:
    folder = swept()
    plan = fixed_plan(folder)
    runs = plan.first_runs()
    assert [(run.label, run.seed) for run in runs] == [
        (name, seed) for seed in (4, 5) for name in ("seesaw_p0.8", "tversky_0.3_0.7", "weight_uniform")
    ]
    plan.write(write_confirmation(folder / "confirmation", plan, {}))
    assert fresh_seed(Sweep(folder)) == 6, "neither those of the sweep nor those planned for an earlier confirmation"


def test_a_sweep_of_nothing_but_the_baseline_is_refused(swept) -> None:
    with pytest.raises(InputError, match="nothing to compare it with"):
        fixed_plan(swept(BASELINE))


def test_a_sweep_without_a_score_is_refused(swept) -> None:
    with pytest.raises(InputError, match="no trial has a score"):
        fixed_plan(swept(replace(BROKEN, dice=[(NAN, NAN)])))


@pytest.mark.parametrize("more", [{}, {"rounds": 0, "budget": 1.0}, {"rounds": 0, "most": 5}])
def test_a_plan_is_read_back_as_it_was_written(swept, tmp_path, more) -> None:
    plan = fixed_plan(swept(SECOND, BEST, BASELINE), **more)
    assert (plan.design is None) == (not more)
    plan = replace(plan, earlier=EarlierNoise(sd=0.01, dof=16.0, where=("mine/confirmation",)))
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan


@pytest.mark.parametrize("text", ["", "{}", '{"arms": 3}', '{"sweep": "a", "arms": [{"name": "x"}]}'])
def test_a_damaged_plan(tmp_path, text) -> None:
    (tmp_path / ARMS).write_text(text)
    with pytest.raises(InputError, match="damaged"):
        read_plan(tmp_path)


# Their runs.


def write_confirmation(
    folder: Path, plan: Plan, scores: Mapping[tuple[str, int], float | None], *, status: str = "finished"
) -> Path:
    """A confirmation's folder; scores: (arm, seed) → Dice, None for a run that failed, NaN for one still running."""
    if not (folder / "manifest.json").exists():
        write_sweep(folder, [], status=status, classes=CLASSES)
        (folder / "sweep.yaml").write_text((folder.parent / "sweep.yaml").read_text())
        plan.write(folder)
    begun = len(Sweep(folder).trials)
    study = open_study(folder)
    for number, ((name, seed), score) in enumerate(scores.items(), start=begun):
        trial = written_run(plan, name, seed, score)
        add_to_study(study, f"{number:04d}_{name}", trial)
        write_trial(folder / "trials" / f"{number:04d}_{name}", number, trial, CLASSES)
    return folder


def written_run(plan: Plan, name: str, seed: int, score: float | None) -> WrittenTrial:
    arm = plan.named(name)
    run = WrittenTrial(label=name, family=arm.family, seed=seed, params={})
    if score is None:
        return replace(run, status="failed: error")
    if math.isnan(score):
        return replace(run, status="running", dice=[(0.1, 0.1)])
    return replace(run, dice=[(0.1, 0.1), (score, score), (score / 2, score / 2)])


def test_scores_stand_by_arm_and_seed(swept) -> None:
    folder = swept()
    plan = fixed_plan(folder)
    made = write_confirmation(
        folder / "confirmation",
        plan,
        {("weight_uniform", 5): 0.5, ("seesaw_p0.8", 4): 0.7, ("tversky_0.3_0.7", 4): None, ("seesaw_p0.8", 5): NAN},
    )
    runs = replicates_of(plan, Sweep(made))
    np.testing.assert_allclose(runs.scores, [[0.7, NAN], [NAN, NAN], [NAN, 0.5]])
    assert np.asarray(runs.attempted).tolist() == [[True, False], [True, False], [False, True]]
    assert runs.class_scores is not None
    np.testing.assert_allclose(runs.class_scores[..., 0], runs.scores)
    assert runs.counts is not None
    np.testing.assert_array_equal(runs.counts[0][0, 0, :, 0], [4.0, 6.0], err_msg="of the second epoch, the best")
    assert np.isnan(runs.counts[0][1]).all()


def test_a_run_may_be_worth_its_last_three_epochs(swept, planned, monkeypatch) -> None:
    """Dice of .1, its score and half of that: the mean of the three instead of the middle one."""
    folder = swept()
    plan = fixed_plan(folder, score="last3")
    assert plan.arms[0].search_score == pytest.approx((0.5 + 0.8 + 0.7) / 3), "of the first of its trials, likewise"
    made = write_confirmation(folder / "tried", plan, {("seesaw_p0.8", 4): 0.7, ("weight_uniform", 4): 0.5})
    runs = replicates_of(plan, Sweep(made))
    np.testing.assert_allclose(runs.scores[:, 0], [1.15 / 3, NAN, 0.85 / 3])
    assert runs.class_scores is not None
    assert runs.counts is not None
    np.testing.assert_allclose(runs.class_scores[0, 0], [1.15 / 3] * 2)
    np.testing.assert_array_equal(runs.counts[0][0, 0, :, 0], [0 + 4 + 8, 2 + 6 + 10], err_msg="of all three epochs")

    found = concluded(folder, CLEAR, monkeypatch, "top=2", "replicates=2", "score=last3")
    best = found["arms"][0]
    assert best["mean"] == pytest.approx((0.1 + 1.5 * best["mean_best"]) / 3)
    assert (found["source"]["score"], read_plan(folder / "confirmation").score) == ("last3", "last3")
    text = summarise("mine")
    assert "best epoch" in text
    assert "scored by the mean of its last three epochs" in text


def test_a_fixed_number_of_rounds_is_trained_and_then_nothing(swept) -> None:
    folder = swept()
    plan = fixed_plan(folder)
    assert len(runs_to_train(plan, None)[0]) == 6
    names = [arm.name for arm in plan.arms]
    done = {(name, seed): 0.5 for seed in (4, 5) for name in names}
    made = write_confirmation(folder / "confirmation", plan, dict(list(done.items())[:-1]))
    assert len(runs_to_train(plan, Sweep(made))[0]) == 6, "the searcher knows which of them were begun"
    write_confirmation(made, plan, dict(list(done.items())[-1:]))
    assert runs_to_train(plan, Sweep(made))[0] == []


def trained_by(
    scores: Callable[[str, int], float | None], stages: list[list[tuple[str, int]]], *, stop_after: int = 99
):
    """A stand-in for run_sweep: writes what each run would have scored, and notes the runs of each call."""

    def run(prepared: Prepared, announce: object) -> Outcome:
        folder = prepared.folder
        begun = {(t.label, t.seed) for t in Sweep(folder).trials} if folder.exists() else set()
        new = [(arm.label, arm.seed) for arm in prepared.arms if (arm.label, arm.seed) not in begun]
        stages.append(new)
        kept = new[:stop_after]
        plan = PLANS[-1]
        write_confirmation(folder, plan, {(name, seed): scores(name, seed) for name, seed in kept})
        return Outcome(folder=folder, complete=len(kept) == len(new))

    return run


PLANS: list[Plan] = []


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every plan that is made or read."""
    PLANS.clear()
    for name in ("make_plan", "read_plan"):
        real = getattr(confirm_module, name)

        def noted(*args, real=real, **more):
            PLANS.append(real(*args, **more))
            return PLANS[-1]

        monkeypatch.setattr(confirm_module, name, noted)
    return PLANS


def noisy(means: Mapping[str, float], sd: float = 0.005) -> Callable[[str, int], float]:
    return lambda name, seed: means[name] + sd * float(np.random.default_rng([seed, len(name)]).standard_normal())


CLEAR = {"seesaw_p0.8": 0.7, "tversky_0.3_0.7": 0.6, "weight_uniform": 0.5, "seesaw_p1.9": 0.4}
TIED = dict.fromkeys(CLEAR, 0.6)


def test_a_clear_winner_is_named_where_summary_export_and_report_look(swept, planned, monkeypatch, capsys) -> None:
    folder = swept()
    stages: list[Runs] = []
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(CLEAR), stages))
    ended = confirm(composed("sweep=mine", "top=2", "replicates=4"))
    assert ended.code == 0
    assert checked_end("confirm", ended)["finding"]["winner"] == "seesaw_p0.8"
    printed = capsys.readouterr().out
    assert "seesaw_p0.8 is the best of 3 arms." in printed
    assert "python -m tune_app.export sweep=mine" in printed
    assert [len(runs) for runs in stages] == [12]
    found = read_confirmation(folder)
    assert found == read_confirmation(folder / "confirmation")
    assert (found["winner"], found["baseline"], found["equivalence_set"]) == (
        "seesaw_p0.8",
        "weight_uniform",
        ["seesaw_p0.8"],
    )
    assert found["source"]["seeds"] == [4, 5, 6, 7]
    best = found["arms"][0]
    assert best["winners_curse"] == pytest.approx(0.8 - best["mean"])
    assert best["trials"] == ["0001_seesaw_p0.8", "0002_seesaw_p0.80"]

    text = summarise("mine")
    assert "Confirmed on fresh seeds" in text
    assert "seesaw_p0.8 is the best of 3 arms." in text
    assert "tune_app.confirm" not in text, "nothing is left to confirm"
    assert checked(summarise("mine", format="json"))["confirmation"]["winner"] == "seesaw_p0.8"
    page = report(ReportSettings(sweep="mine")).read_text()
    assert "seesaw_p0.8 is the best of 3 arms." in page
    assert "not finished" not in summarise(str(folder / "confirmation"))


def test_a_tie_is_told_and_the_default_choice_is_exported_first(swept, planned, monkeypatch, tmp_path) -> None:
    folder = swept()
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(TIED), []))
    assert confirm(composed("sweep=mine", "top=2", "replicates=3")).code == 0
    found = read_confirmation(folder)
    assert found["winner"] is None
    assert len(found["equivalence_set"]) == 3
    assert found["default_choice"] == "weight_uniform"
    notices: list[str] = []
    folders = export(ExportSettings(sweep="mine", top=4, out=str(tmp_path / "best")), tell=notices.append)
    manifests = [json.loads((one / "manifest.json").read_text()) for one in folders]
    assert manifests[0]["trial"] == "0004_weight_uniform"
    assert "cannot be told apart" in notices[0]
    assert "Default choice: weight_uniform" in notices[0]
    names = [manifest["trial"] for manifest in manifests]
    assert {names[1], names[2]} == {"0001_seesaw_p0.8", "0000_tversky_0.3_0.7"}
    assert manifests[0]["confirmation"]["equivalence_set"] == found["equivalence_set"]
    assert manifests[3]["confirmation"] is None or manifests[3]["trial"] == "0002_seesaw_p0.80"
    assert confirmed_order(found)[0] == "weight_uniform"


def test_a_later_leader_is_said_to_be_unconfirmed(swept, planned, monkeypatch) -> None:
    folder = swept(SECOND, BASELINE)
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(CLEAR), []))
    confirm(composed("sweep=mine", "replicates=2"))
    add_to_study(open_study(folder), "0002_seesaw_p0.8", BEST)
    write_trial(folder / "trials" / "0002_seesaw_p0.8", 2, BEST, CLASSES)
    assert "0002_seesaw_p0.8, was not among the confirmed arms" in summarise("mine")


def test_auto_spends_its_budget_in_stages_on_those_that_are_close(swept, planned, monkeypatch) -> None:
    """Two lead by far: the others meet in the first stage alone."""
    swept()
    means = {"seesaw_p0.8": 0.7, "tversky_0.3_0.7": 0.699, "seesaw_p1.9": 0.4, "weight_uniform": 0.3}
    stages: list[Runs] = []
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(means, sd=0.01), stages))
    cost = 3 * 30 / 3600
    assert confirm(composed("sweep=mine", "top=3", "replicates=auto", f"budget_gpu_hours={24 * cost}")).code == 0
    assert [name for name, _ in stages[0]].count("weight_uniform") == 3
    assert len(stages) > 1
    later = {name for stage in stages[1:] for name, _ in stage}
    assert later == {"seesaw_p0.8", "tversky_0.3_0.7"}
    assert sum(map(len, stages)) <= 24
    assert read_confirmation(Path("results/mine"))["stages"]["done"]


def test_rounds_go_on_until_one_arm_is_left(swept, planned, monkeypatch, capsys) -> None:
    """The baseline is far below and soon done with; the two that are close take more rounds."""
    folder = swept()
    means = {"seesaw_p0.8": 0.7, "tversky_0.3_0.7": 0.675, "weight_uniform": 0.5}
    stages: list[Runs] = []
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(means, sd=0.008), stages))
    assert confirm(composed("sweep=mine", "top=2", "replicates=until_decided", "max_replicates=30")).code == 0
    assert "seesaw_p0.8 is the best of 3 arms." in capsys.readouterr().out
    assert len(stages[0]) == 6, "two rounds of all"
    assert {len({seed for _, seed in stage}) for stage in stages[1:]} == {1}, "then one after the other"
    assert {name for name, _ in stages[-1]} == {"seesaw_p0.8", "tversky_0.3_0.7"}
    found = read_confirmation(folder)
    assert found["stages"] == {**found["stages"], "done": True, "looks": len(stages), "budget_hours": None}
    assert found["source"]["design"]["most"] == 30


def test_an_interrupted_confirmation_goes_on_with_the_runs_that_are_missing(swept, planned, monkeypatch, capsys):
    swept()
    for words in (("replicates=3",), ("replicates=auto", "budget_gpu_hours=1"), ("replicates=until_decided",)):
        stages: list[Runs] = []
        monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(CLEAR), stages, stop_after=4))
        ended = confirm(composed("sweep=mine", "top=2", *words))
        assert ended.code == 130
        assert checked_end("confirm", ended)["finding"] is None
        assert "python -m tune_app.confirm resume=mine" in capsys.readouterr().out
        assert not (Path("results/mine") / "confirmation.json").exists()
        again = composed("sweep=mine")
        with pytest.raises(InputError, match="resume=mine"):
            begin(again)
        monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(CLEAR), stages))
        assert confirm(composed("resume=mine")).code == 0
        assert stages[1] == stages[0][4:], "none twice, none left out"
        found = Path("results/mine/confirmation.json")
        assert json.loads(found.read_text())["winner"] == "seesaw_p0.8"
        found.unlink()


def test_a_confirmation_whose_runs_all_fail_ends_with_an_error(swept, planned, monkeypatch, capsys) -> None:
    swept()
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(lambda name, seed: None, []))
    assert confirm(composed("sweep=mine", "top=2", "replicates=2")).code == 1
    assert "no run ended with a score" in capsys.readouterr().err
    assert "no run of the confirmation ended with a score" in summarise("mine")


# What is given to the runs, and what is refused.


def test_runs_are_those_of_the_sweep_but_fresh_and_to_the_end(swept) -> None:
    folder = swept(words=("trainer.lr=0.003", "scheduler.name=asha"))
    plan, prepared = begin(composed("sweep=latest", "top=1", "replicates=2", "resources.max_concurrent=1"))
    settings = prepared.settings
    assert settings.trainer.lr == 0.003
    assert (settings.early_stopping, settings.single_arms) == (False, True)
    assert (settings.resources.max_concurrent, settings.resources.gpus_per_trial) == (1, 0.25)
    assert prepared.counts.positive == COUNTS.positive
    assert (settings.seed, settings.seeds) == (plan.first_seed, 2)
    assert prepared.folder == folder / "confirmation"
    assert not prepared.folder.exists(), "nothing is written yet"
    assert all(isinstance(run, Arm) and run.trained for run in plan.first_runs())


def refused(*words: str) -> None:
    made = composed(*words)
    take_up(made) if made.settings.resume else begin(made)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["replicates=1"], "replicates=1"),
        (["replicates=many"], "a number from 2"),
        (["replicates=99999999999"], "to 500"),
        (["replicates=auto", "budget_gpu_hours=100000"], "at most 500 make sense"),
        (["replicates=auto"], "needs a budget"),
        (["budget_gpu_hours=3"], "replicates=5 says how many"),
        (["top=0"], "top=0"),
        (["max_replicates=8"], "replicates=5 says how many"),
        (["replicates=until_decided", "max_replicates=1"], "max_replicates=1"),
        (["replicates=until_decided", "noise=borrowed"], "for a fixed number of replicates"),
        (["score=last2"], "score=last2"),
        (["resume=mine", "score=last3"], "keeps its plan"),
        (["sweep=other"], "sweep=other"),
        (["family=seesaw"], "family"),
        (["replicates=auto", "budget_gpu_hours=0.01"], "budget_gpu_hours=0.01"),
        (["resume=mine"], "has no confirmation"),
        (["resume=mine", "top=3"], "keeps its plan"),
    ],
)
def test_bad_words_are_refused_in_a_sentence(swept, words, fragment) -> None:
    folder = swept()
    before = sorted(folder.rglob("*"))
    with pytest.raises((InputError, SettingsError)) as caught:
        refused(*words)
    assert fragment in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def concluded(folder: Path, means: Mapping[str, float], monkeypatch: pytest.MonkeyPatch, *words: str) -> dict:
    monkeypatch.setattr(confirm_module, "run_sweep", trained_by(noisy(means), []))
    assert confirm(composed("sweep=mine", *words)).code == 0
    return read_confirmation(folder)


def test_an_interrupt_between_two_stages_leaves_a_confirmation_to_go_on_with(swept, planned, monkeypatch, capsys):
    folder = swept()
    stages: list[Runs] = []
    train = trained_by(noisy({**TIED, "seesaw_p0.8": 0.605}, sd=0.01), stages)

    def once(*given: object) -> Outcome:
        if stages:
            raise KeyboardInterrupt
        return train(*given)

    monkeypatch.setattr(confirm_module, "run_sweep", once)
    words = ("top=2", "replicates=auto", f"budget_gpu_hours={30 * 3 * 30 / 3600}")
    assert confirm(composed("sweep=mine", *words)).code == 130
    assert "python -m tune_app.confirm resume=mine" in capsys.readouterr().out
    assert Sweep(folder / "confirmation").status == "interrupted"
    again = composed("sweep=mine")
    with pytest.raises(InputError, match="has not come to its end"):
        begin(again)
    most = PLANS[-1].design.most_rounds()
    assert fresh_seed(Sweep(folder)) >= PLANS[-1].first_seed + most, "its seeds to come are its own"


def test_what_is_refused_before_it_begins_leaves_no_folder(swept, planned, monkeypatch) -> None:
    folder = swept()

    def refuse(*given: object) -> Outcome:
        assert (folder / "confirmation" / ARMS).is_file(), "the plan is there before anything else"
        raise InputError("no machine holds such a trial")

    monkeypatch.setattr(confirm_module, "run_sweep", refuse)
    with pytest.raises(InputError, match="no machine"):
        confirm(composed("sweep=mine", "replicates=2"))
    assert not (folder / "confirmation").exists()


def test_a_folder_that_another_confirmation_has_taken_meanwhile_is_left_alone(swept, planned, monkeypatch) -> None:
    folder = swept()
    plan, prepared = begin(composed("sweep=mine", "replicates=2"))
    other = write_confirmation(folder / "confirmation", fixed_plan(folder), {("seesaw_p0.8", 4): 0.5})
    before = (other / ARMS).read_bytes()
    with pytest.raises(InputError, match="has just begun"):
        confirm_module.train(plan, prepared)
    assert (other / ARMS).read_bytes() == before


def test_an_older_confirmation_does_not_take_the_place_of_a_newer_one(swept, planned, monkeypatch) -> None:
    folder = swept()
    concluded(folder, CLEAR, monkeypatch, "top=1", "replicates=2")
    newer = concluded(folder, TIED, monkeypatch, "top=2", "replicates=2")
    assert newer["source"]["runs"] == "confirmation_2"
    assert not set(newer["source"]["seeds"]) & {4, 5}
    assert confirm(composed(f"resume={folder / 'confirmation'}")).code == 0
    assert read_confirmation(folder) == newer


def test_a_damaged_finding_is_said_and_written_again(swept, planned, monkeypatch, tmp_path) -> None:
    folder = swept()
    found = concluded(folder, CLEAR, monkeypatch, "top=2", "replicates=2")
    (folder / "confirmation.json").write_text('{"statement": "No win')
    assert "confirmation.json is damaged" in summarise("mine")
    notices: list[str] = []
    export(ExportSettings(sweep="mine", top=1, out=str(tmp_path / "best")), tell=notices.append)
    assert "is damaged" in notices[0]
    assert confirm(composed("resume=mine")).code == 0
    assert read_confirmation(folder) == found


def test_later_trials_of_a_confirmed_configuration_are_known_by_their_loss(swept, planned, monkeypatch, tmp_path):
    """The baseline was not in the sweep when it was confirmed."""
    folder = swept(SECOND, BEST)
    uniform = '"' + UNIFORM + '"'
    found = concluded(folder, TIED, monkeypatch, "top=2", "replicates=2")
    assert next(arm for arm in found["arms"] if arm["name"] == "weight_uniform")["signature"] == uniform
    add_to_study(open_study(folder), "0002_weight_uniform", BASELINE)
    write_trial(folder / "trials" / "0002_weight_uniform", 2, BASELINE, CLASSES)
    (exported,) = export(ExportSettings(sweep="mine", top=1, out=str(tmp_path / "best")), tell=lambda notice: None)
    assert json.loads((exported / "manifest.json").read_text())["trial"] == "0002_weight_uniform"


@pytest.mark.parametrize(("epoch", "counts"), [(1, True), (2, False), (3, False)])
def test_a_run_counts_unless_it_is_hopeless_at_its_best_epoch_or_its_end(swept, planned, epoch, counts) -> None:
    """Its best epoch is the second of three."""
    folder = swept()
    plan = fixed_plan(folder)
    made = write_confirmation(folder / "confirmation", plan, {("seesaw_p0.8", 4): 0.7, ("seesaw_p0.8", 5): 0.7})
    path = made / "trials" / "0001_seesaw_p0.8" / "history.jsonl"
    rows = [
        json.loads(path.read_text().splitlines()[0]) | {"epoch": e, "mean_dice": d}
        for e, d in ((1, 0.5), (2, 0.7), (3, 0.6))
    ]
    rows[epoch - 1]["weight_growth"] = 1e6
    path.write_text("\n".join(map(json.dumps, rows)))
    (run,) = (trial for trial in Sweep(made).trials if trial.seed == 5)
    assert [one.code for one in run.diagnoses] == ["diverged"], "it is said, whether the run counts or not"
    np.testing.assert_allclose(replicates_of(plan, Sweep(made)).scores[0], [0.7, 0.7 if counts else NAN])


def test_a_folder_that_has_lost_its_arms_is_still_no_search(swept) -> None:
    folder = swept()
    made = write_confirmation(folder / "confirmation", fixed_plan(folder), {("seesaw_p0.8", 4): 0.5})
    (made / ARMS).unlink()
    words = compose("run", type(settings_of()), [f"resume={made}"])
    assert words is not None
    with pytest.raises(InputError, match="confirm resume=mine"):
        resume.take_up(words)
    lost = composed("resume=mine")
    with pytest.raises(InputError, match="Remove"):
        take_up(lost)


def test_a_running_sweep_is_waited_for(swept) -> None:
    folder = swept()
    with FileLock(folder / "sweep.lock"), pytest.raises(InputError, match="still running"):
        begin(composed("sweep=mine"))


def test_a_confirmation_is_no_search(swept) -> None:
    folder = swept()
    made = write_confirmation(folder / "confirmation", fixed_plan(folder), {("seesaw_p0.8", 4): 0.5})
    with pytest.raises(InputError, match="itself a confirmation"):
        begin(composed(f"sweep={made}"))
    for verb, fix in (("resume", "confirm resume=mine"), ("extend", "confirm sweep=mine")):
        words = compose("run", type(settings_of()), [f"{verb}={made}"])
        assert words is not None
        with pytest.raises(InputError, match=fix):
            resume.take_up(words)


def test_other_data_are_refused(swept) -> None:
    folder = swept()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["data"]["fingerprint"] = "other"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="the data under"):
        begin(composed("sweep=mine"))


optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize(
    ("swept_on", "words", "goes_to"),
    [
        ([], ["cluster=longleaf"], "longleaf"),
        (["cluster.name=longleaf"], [], "longleaf"),
        (["cluster.address=10.0.0.1:6379"], ["cluster=longleaf"], "longleaf"),
    ],
)
def test_from_outside_a_cluster_it_is_handed_over_as_a_job(
    swept, monkeypatch, tmp_path, swept_on, words, goes_to
) -> None:
    folder = swept(words=tuple(swept_on))
    asked, handed = [], []

    def found(cluster):
        asked.append((cluster.name, cluster.address))
        return Connection(address="10.0.0.1:6379", dashboard="", token=tmp_path / "token", here=False)

    monkeypatch.setattr(confirm_module, "found", found)
    monkeypatch.setattr(confirm_module, "run_there", lambda connection, *job: handed.append(job) or 7)
    assert confirm(composed("sweep=mine", "top=2", *words)) == 7
    assert asked == [(goes_to, "")]
    assert handed == [("tune_app.confirm", ["sweep=mine", "top=2", *words])]
    assert not (folder / "confirmation").exists(), "the job makes it"


def test_a_confirmation_goes_on_where_it_ran_and_here_if_told_so(swept) -> None:
    folder = swept()
    made = write_confirmation(folder / "confirmation", fixed_plan(folder), {("seesaw_p0.8", 4): 0.5})
    settings = yaml.safe_load((made / "sweep.yaml").read_text())
    settings["cluster"]["name"] = "longleaf"
    (made / "sweep.yaml").write_text(yaml.safe_dump(settings))
    assert confirm_module.wanted_cluster(composed("resume=mine")).name == "longleaf"
    assert not confirm_module.wanted_cluster(composed("resume=mine", "cluster=local")).remote
    assert not confirm_module.wanted_cluster(composed("sweep=mine")).remote


def test_noise_of_earlier_confirmations_is_borrowed_and_said(swept, planned, monkeypatch) -> None:
    folder = swept()
    given = ("top=2", "replicates=3", "noise=borrowed")
    nothing = composed("sweep=mine", *given)
    with pytest.raises(InputError, match="holds no finished confirmation"):
        begin(nothing)
    concluded(folder, CLEAR, monkeypatch, "top=2", "replicates=4")
    fingerprinted(folder, folder / "confirmation")
    found = concluded(folder, CLEAR, monkeypatch, *given)
    borrowed = found["borrowed"]
    assert (borrowed["dof"], borrowed["where"], borrowed["accepted"]) == (6.0, ["mine/confirmation"], True)
    assert (borrowed["own_dof"], found["noise"]["dof"]) == (4.0, 10.0)
    assert found["noise"]["sd"] ** 2 == pytest.approx((6 * borrowed["sd"] ** 2 + 4 * borrowed["own_sd"] ** 2) / 10)
    assert "is pooled with that of earlier ones" in summarise("mine")


def test_a_run_that_two_earlier_confirmations_share_counts_once_and_other_budgets_do_not(swept, planned, monkeypatch):
    folder = swept()
    concluded(folder, CLEAR, monkeypatch, "top=2", "replicates=3")
    twin = Path("results/twin")
    shutil.copytree(folder, twin)
    fingerprinted(folder, folder / "confirmation", twin, twin / "confirmation")
    begun, _ = begin(composed("sweep=mine", "top=2", "noise=borrowed"))
    assert begun.earlier is not None
    assert begun.earlier.where == ("mine/confirmation",), "the copy has no run of its own"
    settings = yaml.safe_load((folder / "confirmation" / "sweep.yaml").read_text())
    settings["trainer"]["epochs"] = 4
    for made in (folder, twin):
        (made / "confirmation" / "sweep.yaml").write_text(yaml.safe_dump(settings))
    other = composed("sweep=mine", "top=2", "noise=borrowed")
    with pytest.raises(InputError, match="and the data, task, model and trainer of mine"):
        begin(other)


def fingerprinted(*folders: Path) -> None:
    """Of the data in memory, which say none."""
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["data"]["fingerprint"] = "f00d"
        (folder / "manifest.json").write_text(json.dumps(manifest))
