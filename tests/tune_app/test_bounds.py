"""A sweep whose objective has bounds, or is minimised: every reader agrees on what is best."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driven import begin, searcher_of, study_of
from optuna.trial import TrialState
from planned import settings_of
from sweep_folder import UNIFORM, WrittenTrial, summarise, write_sweep

from trainables.errors import SettingsError
from trainables.objective import Objective
from tune_app.confirmation.runs import decided_among_feasible
from tune_app.errors import InputError
from tune_app.evidence import Replicates, confirm_statistics
from tune_app.exporting.export import ExportSettings, export
from tune_app.ray_adapters.checkpoint_cap import CheckpointKeeper
from tune_app.report import facts
from tune_app.reporting.findings import gather
from tune_app.reporting.leaderboard import verdict
from tune_app.results.baseline import verdicts
from tune_app.results.finding import confirmed_order, confirmed_table
from tune_app.results.sweep import Sweep
from tune_app.search.recovery import recorded_curves
from tune_app.search.scheduler import ResumableAsha
from tune_app.settings.command_line import compose
from tune_app.settings.schema import Settings

BOUND = Objective(metric="mean_dice", at_least={"dice/pm": 0.5})
UNFAIR = WrittenTrial(label="unfair", dice=[(0.6, 0.2), (0.9, 0.4), (0.9, 0.3)], params={"p": 0.1})
FAIR = WrittenTrial(label="fair", dice=[(0.7, 0.5), (0.9, 0.2), (0.5, 0.55)], params={"p": 0.2})
POOR = WrittenTrial(label="poor", dice=[(0.5, 0.5)] * 3, params={"p": 0.3})


def swept(folder: Path, *trials: WrittenTrial, objective: Objective = BOUND) -> Sweep:
    write_sweep(folder, trials)
    path = folder / "manifest.json"
    told = {"metric": objective.metric, "mode": objective.mode}
    told |= {"at_least": dict(objective.at_least), "at_most": dict(objective.at_most)}  # type: ignore[dict-item]
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    return Sweep(folder)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["objective.at_least.precision.nuc=0.65"], Objective(metric="mean_dice", at_least={"precision/nuc": 0.65})),
        (["objective.at_most.fg_pred.pm=1e-2"], Objective(metric="mean_dice", at_most={"fg_pred/pm": 0.01})),
        (["objective.metric=val_loss"], Objective(metric="val_loss", mode="min")),
        (["objective.metric=dice/nuc", "objective.mode=min"], Objective(metric="dice/nuc", mode="min")),
        (["objective.at_least.calibrated.nuc=0.3"], Objective(metric="mean_dice", at_least={"calibrated/nuc": 0.3})),
        (
            ["objective.metric=calibrated_mean_recall", "objective.at_least.calibrated_precision.nuc=0.65"],
            Objective(metric="calibrated_mean_recall", at_least={"calibrated_precision/nuc": 0.65}),
        ),
        ([], Objective(metric="mean_dice")),
    ],
)
def test_an_objective_is_given_without_quotes(words: list[str], expected: Objective) -> None:
    composed = compose("run", Settings, words)
    assert composed is not None
    assert composed.settings.order == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "objective.metric=f2",
            r"metric=f2: no row of this task .* Choices: .*mean_dice.*calibrated/CLASS.*CLASS is one of nuc, ",
        ),
        (
            "objective.metric=dice.nuc",
            r"objective\.metric=dice\.nuc: no row .* Did you mean dice/nuc\? Choices: .*dice/CLASS",
        ),
        (
            "objective.at_least.dice.cow=0.5",
            r"at_least\.dice\.cow=0\.5: no row .* mean dice\.nuc .* Choices: .*dice\.CLASS",
        ),
        ("objective.at_least.recall=0.5", r"at_least\.recall=0\.5: no row .* Did you mean recall\."),
        ("objective.at_most.colour=0.5", r"objective\.at_most\.colour.* Choices: "),
        (
            "objective.at_least=0.5",
            r"at_least=0\.5: a bound needs the name of a figure\. Write objective\.at_least\.FIGURE",
        ),
        (
            "objective.at_least.recall.pm=0.9 objective.at_most.recall.pm=0.5",
            r"at_least\.recall\.pm=0\.9: nothing is at least that and at most 0\.5, which .*at_most\.recall\.pm asks",
        ),
        (
            "objective.mode=min",
            r"objective\.mode=min: without objective\.metric that of the task ranks, mean_dice, and .* max\. Name",
        ),
        ("objective.mode=up", r"objective\.mode=up: choose one of max, min"),
        ("objective.at_least.dice.nuc=nan", r"objective\.at_least\.dice\.nuc=nan: a bound is a finite number"),
        ("objective.at_least.dice.nuc=much", r"objective\.at_least\.dice\.nuc=much: a bound is a finite number"),
        ("objective.at_lest.dice.nuc=1", r"at_lest: there is no such setting\. Did you mean objective\.at_least"),
    ],
)
def test_an_objective_that_cannot_be_is_refused_with_the_choices(words: str, told: str) -> None:
    with pytest.raises((SettingsError, InputError), match=told):
        compose("run", Settings, words.split())


def test_an_exported_objective_is_the_same_settings_again() -> None:
    """A trial's config holds figures as the rows name them, the command line a dot for the slash."""
    flat, nested = ({"dice/nuc": 0.5}, {"dice": {"nuc": 0.5}})
    assert settings_of().objective.__class__(at_least=flat).of(BOUND) == Objective(metric="mean_dice", at_least=flat)
    assert settings_of("objective.at_least.dice.nuc=0.5").objective.at_least == nested


def test_the_leader_is_the_best_of_those_that_keep_the_bounds(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s", UNFAIR, FAIR, POOR)
    board = sweep.leaderboard()
    assert board["name"].tolist() == ["0001_fair", "0002_poor", "0000_unfair"]
    assert board["violation"].tolist() == pytest.approx([0, 0, 0.2])
    assert sweep.trial("fair").best["epoch"] == 1, "epoch 2 has a higher score, and misses the bound"
    assert sweep.arms()["arm"].tolist() == ["fair", "poor", "unfair"]
    assert sweep.nearest == ""
    assert "First come the trials that keep the bounds: dice/pm ≥ 0.5." in summarise(str(tmp_path / "s"))
    assert "0001_fair leads" in verdict(gather(sweep))


def test_where_nothing_keeps_the_bounds_the_nearest_is_shown_and_said(tmp_path: Path, capsys: Any) -> None:
    sweep = swept(tmp_path / "s", WrittenTrial(label="far", dice=[(0.99, 0.1)]), UNFAIR)
    told = "No trial keeps the bounds dice/pm ≥ 0.5: the nearest is 0001_unfair, with dice/pm 0.4000."
    assert sweep.nearest == told
    assert sweep.leaderboard()["name"].tolist() == ["0001_unfair", "0000_far"]
    assert told in summarise(str(tmp_path / "s"))
    assert verdict(gather(sweep)).startswith("0001_unfair is the nearest to the bounds. ")
    said: list[str] = []
    (folder,) = export(ExportSettings(sweep=str(tmp_path / "s"), top=1, out=str(tmp_path / "out")), tell=said.append)
    assert told in said
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["trial"], manifest["missed"]) == ("0001_unfair", "dice/pm 0.4000")
    assert "It misses the bounds dice/pm ≥ 0.5 (with dice/pm 0.4000)" in (folder / "README.md").read_text()


def test_nothing_that_misses_the_bounds_is_called_the_best(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s", WrittenTrial(label="far", dice=[(0.99, 0.1)]), UNFAIR)
    nearest = "0001_unfair: mean Dice 0.6500 at epoch 2; it misses the bounds dice/pm ≥ 0.5"
    assert facts(gather(sweep))[0] == ("Nearest", nearest)
    assert facts(gather(swept(tmp_path / "k", FAIR)))[0] == ("Best", "0000_fair: mean Dice 0.6000 at epoch 1")
    best = sweep.best_per_class()
    assert best[["class", "name"]].values.tolist() == [["nuc", "0000_far"], ["pm", "0001_unfair"]]
    assert best["violation"].tolist() == pytest.approx([0.8, 0.2]), "the table says that they miss a bound"


@pytest.mark.parametrize(
    ("base", "family", "told"),
    [
        ((0.9, 0.3), (0.6, 0.5), "seesaw leads the untuned baseline, which misses the bounds: at 0.5 its one"),
        ((0.6, 0.5), (0.9, 0.3), "seesaw has not beaten the untuned baseline, which alone keeps the bounds: at 0.5"),
        ((0.9, 0.3), (0.9, 0.4), "seesaw leads the untuned baseline: at 0.5 its one"),
        ((0.6, 0.5), (0.6, 0.6), "seesaw leads the untuned baseline: at 0.5 its one"),
    ],
)
def test_the_bounds_come_first_in_what_is_said_of_the_baseline(
    tmp_path: Path, base: tuple[float, float], family: tuple[float, float], told: str
) -> None:
    first = WrittenTrial(label="weight_uniform", family="static", dice=[base], own=base, signature=UNIFORM)
    sweep = swept(tmp_path / "s", first, WrittenTrial(label="seesaw_p1", dice=[family], own=family))
    (found,) = verdicts(sweep)
    assert found.startswith(told)
    assert ("both miss the bounds" in found) == (base[1] < 0.5 and family[1] < 0.5)


def test_another_metric_is_named_beside_the_calibrated_dice(tmp_path: Path) -> None:
    base, half = (0.5, 0.5), (0.7, 0.4)
    first = WrittenTrial(label="weight_uniform", family="static", dice=[base], own=base, signature=UNIFORM)
    other = WrittenTrial(label="seesaw_p1", dice=[half], own=half)
    (found,) = verdicts(swept(tmp_path / "s", first, other, objective=Objective(metric="dice/nuc")))
    assert found == (
        "seesaw leads the untuned baseline: in Dice nuc its one finished configuration leads by 0.2000; in mean Dice "
        "at thresholds of their own it leads by 0.0500 (0.5500 and 0.5000). Single runs cannot decide this."
    )


def test_a_minimised_metric_is_read_the_other_way_round(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s", UNFAIR, FAIR, POOR, objective=Objective(metric="dice/nuc", mode="min"))
    assert sweep.leaderboard()["name"].tolist() == ["0001_fair", "0002_poor", "0000_unfair"]
    assert sweep.trial("fair").best["epoch"] == 3
    assert sweep.arms()["mean"].tolist() == [0.5, 0.5, 0.6]


def test_pictures_of_the_search_read_the_best_epoch_within_the_bounds(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "s", WrittenTrial(label="fair", dice=[(0.5, 0.5), (0.9, 0.4), (0.9, 0.3)]))
    found, trial = gather(sweep), sweep.trial("fair")
    assert [found.score_within(trial, epoch) for epoch in (1, 3)] == [0.5, 0.5]
    assert math.isnan(found.score_within(trial, 4))


def rows(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of Dice of the two classes, with what the engine says of the best epoch so far."""
    found: list[dict[str, Any]] = []
    for epoch, (nuc, pm) in enumerate(pairs, start=1):
        found.append({"epoch": epoch, "mean_dice": (nuc + pm) / 2, "dice/nuc": nuc, "dice/pm": pm})
        best = max(found, key=BOUND.key)
        found[-1] |= {f"best_{name}": best[name] for name in BOUND.figures} | {"best_epoch": best["epoch"]}
    return found


def named(name: str) -> Any:
    return type("FakeTrial", (), {"config": {"run": {"name": name}}, "trial_id": name})()


def asha(**more: Any) -> ResumableAsha:
    return ResumableAsha(objective=BOUND, max_epochs=9, grace_period=1, reduction_factor=2, **more)


def test_asha_stops_what_misses_the_bounds_and_its_rungs_are_rebuilt_from_the_rows(tmp_path: Path) -> None:
    reported = {"0000_fair": rows((0.3, 0.5)), "0001_good": rows((0.4, 0.6)), "0002_unfair": rows((0.9, 0.4))}
    live = asha()
    decisions = [live.on_trial_result(None, named(name), own[0]) for name, own in reported.items()]
    assert decisions == ["CONTINUE", "CONTINUE", "STOP"], "the highest score, and stopped"
    tied = rows((0.95, 0.4))[0]
    assert live.on_trial_result(None, named("0003_unfair"), tied) == "STOP"

    searcher = searcher_of(tmp_path, "family=seesaw", "search=random", "search.num_samples=3", "trainer.epochs=4")
    for own in reported.values():
        _, config = begin(searcher) or ("", {})
        folder = tmp_path / "trials" / config["run"]["name"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in own))
    curves = recorded_curves(study_of(tmp_path), tmp_path, BOUND)
    again = asha(curves=dict(zip(reported, curves.values(), strict=True)))
    assert again.rungs()[1] == {name: rung for name, rung in live.rungs()[1].items() if name in reported}
    assert again.on_trial_result(None, named("0003_unfair"), tied) == "STOP"


def test_the_study_learns_which_bounds_were_missed_once_and_by_how_much(tmp_path: Path) -> None:
    searcher = searcher_of(
        tmp_path, "family=seesaw", "search=random", "search.num_samples=3", "trainer.epochs=2", objective=BOUND
    )
    for own in (rows((0.9, 0.4), (0.9, 0.3)), rows((0.6, 0.55), (0.9, 0.2)), rows((0.6, 0.6))):
        trial_id, _ = begin(searcher) or ("", {})
        for row in own:
            searcher.on_trial_result(trial_id, row)
        searcher.on_trial_complete(trial_id, own[-1])
    missed, kept, stopped = study_of(tmp_path).get_trials()
    name = "dice/pm ≥ 0.5"
    assert [trial.constraints[name] for trial in (missed, kept, stopped)] == pytest.approx([0.2, -0.1, -0.2])
    assert (missed.value, kept.value) == pytest.approx((0.65, 0.575)), "of the best epoch: that which kept the bound"
    assert stopped.state == TrialState.PRUNED
    assert study_of(tmp_path).best_trial.number == 1


def test_a_minimised_study_has_that_direction(tmp_path: Path) -> None:
    least = Objective(metric="val_loss", mode="min")
    searcher = searcher_of(
        tmp_path, "family=seesaw", "search=random", "search.num_samples=2", "trainer.epochs=1", objective=least
    )
    for loss in (0.7, 0.4):
        trial_id, _ = begin(searcher) or ("", {})
        searcher.on_trial_complete(trial_id, {"epoch": 1, "val_loss": loss, "best_val_loss": loss})
    assert study_of(tmp_path).best_trial.number == 1
    scheduler = ResumableAsha(objective=least, max_epochs=9, grace_period=1, reduction_factor=2)
    losses = (("a", 0.4), ("b", 0.6), ("c", float("nan")), ("d", 0.3))
    judged = [scheduler.on_trial_result(None, named(n), {"epoch": 1, "val_loss": loss}) for n, loss in losses]
    assert judged == ["CONTINUE", "STOP", "STOP", "CONTINUE"]


def test_the_checkpoint_that_keeps_the_bounds_stays(tmp_path: Path) -> None:
    keeper = CheckpointKeeper(1, 1.0, BOUND)
    for name, own in (("fair", rows((0.3, 0.5))), ("unfair", rows((0.9, 0.4)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.pt").write_text("weights")
        trial = type("Ended", (), {"config": {"run": {"dir": str(tmp_path / name)}}, "last_result": own[-1]})()
        keeper.on_trial_complete(0, [], trial)
    assert [path.parent.name for path in tmp_path.glob("*/best.pt")] == ["fair"]


def replicates() -> Replicates:
    """Three arms on three seeds; the first has the highest scores."""
    return Replicates(
        arms=["unfair", "fair", "plain"],
        scores=np.array([[0.80, 0.81, 0.82], [0.70, 0.71, 0.725], [0.50, 0.51, 0.52]]),
        baseline="plain",
    )


@pytest.mark.parametrize(
    ("pm", "winner", "choice", "told"),
    [
        ((0.6, 0.6, 0.6), "unfair", "unfair", "unfair is the best of 3 arms."),
        (
            (0.4, 0.6, 0.6),
            "fair",
            "fair",
            "Of the arms that keep the bounds dice/pm ≥ 0.5: fair is the best of 2 arms.",
        ),
        ((0.4, 0.4, 0.6), "plain", "plain", "plain is the only arm that keeps the bounds dice/pm ≥ 0.5."),
        (
            (0.4, 0.45, 0.1),
            None,
            "fair",
            "No winner: no arm keeps the bounds dice/pm ≥ 0.5; the nearest is fair, with a mean dice/pm 0.4500.",
        ),
    ],
)
def test_the_winner_of_a_confirmation_is_decided_among_the_feasible(
    pm: tuple[float, ...], winner: str | None, choice: str, told: str
) -> None:
    runs = replicates()
    content = confirm_statistics(runs).to_dict()
    figures = {
        name: {"mean_dice": float(scores.mean()), "dice/pm": value}
        for name, scores, value in zip(runs.arms, runs.scores, pm, strict=True)
    }
    found = content | decided_among_feasible(content, runs, figures, BOUND)
    assert (found["winner"], found["default_choice"], found["statement"]) == (winner, choice, told)
    assert {arm["name"] for arm in found["arms"] if arm["violation"]} == {
        name for name, value in zip(runs.arms, pm, strict=True) if value < 0.5
    }
    assert confirmed_order(found)[0] == choice
    assert ("P(best)" in confirmed_table(found)) == (winner is not None), (
        "nothing is the best of what misses the bounds"
    )
