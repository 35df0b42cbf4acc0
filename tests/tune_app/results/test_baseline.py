"""The untuned baseline: found under any name, a row of every leaderboard, and what it says of the families."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_folder import UNIFORM, WrittenTrial, summarise, write_sweep, write_validation

from trainables.errors import SettingsError
from tune_app.errors import InputError
from tune_app.evidence.critical import t_critical
from tune_app.results.baseline import add_command, baseline_trials, calibrated_noise, gains, sentence, verdicts
from tune_app.results.repeats import Noise
from tune_app.results.summary import FORMATS, SummarySettings
from tune_app.results.sweep import Sweep
from tune_app.summary import main

BASELINE = WrittenTrial(
    label="weight_uniform",
    preset="weight_uniform",
    family="static",
    dice=[(0.5, 0.5)],
    own=(0.6, 0.55),
    signature=UNIFORM,
)
MOVED = WrittenTrial(label="seesaw_default", preset="seesaw_default", dice=[(0.58, 0.52)], own=(0.58, 0.54))
BETTER = WrittenTrial(label="seesaw_p0.3", dice=[(0.7, 0.6)], params={"p": 0.3})
WORSE = WrittenTrial(label="seesaw_p0.4", dice=[(0.4, 0.3)], params={"p": 0.4})


def sweep_of(folder: Path, *trials: WrittenTrial, **more: str) -> Sweep:
    return Sweep(write_sweep(folder / "a", trials, **more))


def test_what_the_study_notes_of_a_trial_says_whether_it_is_the_baseline(tmp_path: Path) -> None:
    noted = replace(MOVED, baseline=True)
    assert [t.name for t in baseline_trials(sweep_of(tmp_path, replace(BASELINE, baseline=False), noted))] == [
        "0001_seesaw_default"
    ]


def test_a_trial_of_uniform_weights_is_the_baseline_under_any_name(tmp_path: Path) -> None:
    other = replace(BASELINE, label="cb_beta_0.99", preset="cb_beta_0.99", family="class_balanced")
    sweep = sweep_of(tmp_path, other, BETTER)
    assert [trial.name for trial in baseline_trials(sweep)] == ["0000_cb_beta_0.99"]
    board = sweep.leaderboard()
    assert board["baseline"].tolist() == [False, True]
    assert "0000_cb_beta_0.99 (baseline)" in summarise(sweep.folder)


def test_the_leaderboard_shows_both_dice_and_ranks_by_either(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BASELINE, MOVED)
    board = sweep.leaderboard()
    assert board["name"].tolist() == ["0001_seesaw_default", "0000_weight_uniform"]
    assert board["mean_dice"].tolist() == pytest.approx([0.55, 0.5])
    assert board["calibrated_mean_dice"].tolist() == pytest.approx([0.56, 0.575])
    assert board["threshold_gap"].tolist() == pytest.approx([0.01, 0.075])
    assert board["calibrated/nuc"].tolist() == pytest.approx([0.58, 0.6])
    by_own = sweep.leaderboard(by="calibrated_mean_dice")
    assert by_own["name"].tolist() == ["0000_weight_uniform", "0001_seesaw_default"]
    assert by_own["rank"].tolist() == [1, 2]
    assert sweep.leaderboard(by="calibrated/pm")["name"].tolist() == ["0000_weight_uniform", "0001_seesaw_default"]


def test_a_trial_that_cannot_be_calibrated_has_no_rank_by_it_and_says_why(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BASELINE, MOVED)
    (sweep.folder / "trials" / "0001_seesaw_default" / "validation.npz").unlink()
    board = sweep.refresh().leaderboard(by="calibrated_mean_dice")
    assert board["rank"].isna().tolist() == [False, True]
    assert board["calibration"].tolist() == ["", "validation.npz is missing or damaged"]
    assert "1 trial without calibrated Dice, the first because validation.npz is missing" in summarise(sweep.folder)
    (sweep.folder / "trials" / "0000_weight_uniform" / "validation.npz").unlink()
    text = summarise(sweep.folder)
    assert "No calibrated Dice: validation.npz is missing" in text
    assert "calibrated   " not in text, "a column of nothing is not shown"
    assert "0000_weight_uniform, has no calibrated Dice (validation.npz is missing" in text


@pytest.mark.parametrize("form", FORMATS)
def test_a_baseline_that_was_not_run_is_a_row_with_the_command_that_adds_it(tmp_path: Path, form: str) -> None:
    sweep = sweep_of(tmp_path, MOVED)
    text = summarise(sweep.folder, format=form)
    assert "not run" in text
    assert f"python -m tune_app.run extend={sweep.folder} search.baseline=true" in text
    if form == "json":
        found = json.loads(text)
        assert found["leaderboard"][-1]["reason"] == add_command(sweep) == found["baseline"]["run_it"]
        assert (found["leaderboard"][-1]["rank"], found["leaderboard"][-1]["mean_dice"]) == (None, None)
        assert [row["name"] for row in found["failed"]] == []


def test_a_sweep_that_still_runs_gets_its_baseline_afterwards(tmp_path: Path) -> None:
    (text,) = verdicts(sweep_of(tmp_path, MOVED, status="interrupted"))
    assert "once the sweep is finished, add it" in text


def test_gains_compare_the_best_finished_runs(tmp_path: Path) -> None:
    again = replace(BASELINE, dice=[(0.4, 0.4)], own=(0.5, 0.45), seed=1)
    stopped = replace(BETTER, label="seesaw_p0.9", status="stopped early", dice=[(0.9, 0.9)])
    sweep = sweep_of(tmp_path, BASELINE, again, MOVED, WORSE, stopped)
    (gain,) = gains(sweep)
    assert (gain.family, gain.arms, gain.runs, gain.base_runs) == ("seesaw", 2, 1, 2)
    assert gain.base == pytest.approx((0.575 + 0.475) / 2)
    assert (gain.at_half, gain.calibrated) == pytest.approx((0.55 - 0.45, 0.56 - 0.525))


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (
            MOVED,
            "seesaw may have only moved the operating point of the untuned baseline: at 0.5 its one finished "
            "configuration leads by 0.0500, at thresholds of their own it trails by 0.0150 (0.5600 and 0.5750). "
            "Single runs cannot decide this.",
        ),
        (BETTER, "seesaw leads the untuned baseline: at 0.5 its one finished configuration leads by 0.1500"),
        (
            replace(MOVED, dice=[(0.48, 0.42)], own=(0.65, 0.6)),
            "seesaw leads the untuned baseline at thresholds of their own only: at 0.5 its one finished configuration "
            "trails by 0.0500, at thresholds of their own it leads by 0.0500",
        ),
        (WORSE, "seesaw has not beaten the untuned baseline: at 0.5 its one finished configuration trails by 0.1500"),
        (
            replace(BASELINE, signature="", label="same", family="seesaw"),
            "seesaw has not beaten the untuned baseline: at 0.5 its one finished configuration is level with it",
        ),
    ],
    ids=["moved", "better", "better_at_its_own", "worse", "level"],
)
def test_what_is_said_of_a_family(tmp_path: Path, trial: WrittenTrial, expected: str) -> None:
    sweep = sweep_of(tmp_path, BASELINE, trial)
    (text,) = verdicts(sweep)
    assert text.startswith(expected)
    assert text in summarise(sweep.folder)
    assert text in summarise(sweep.folder, rank_by="calibrated", format="md")
    assert json.loads(summarise(sweep.folder, format="json"))["gains"][0]["family"] == "seesaw"


def test_a_difference_within_the_noise_is_undecided_and_one_beyond_it_is_told(tmp_path: Path) -> None:
    (gain,) = gains(sweep_of(tmp_path, BASELINE, MOVED))
    within, beyond = Noise(sd=0.1, dof=9, arms=1), Noise(sd=0.001, dof=9, arms=1)
    assert "may have only moved" in sentence(gain, within)
    assert f"A difference below {within.difference:.4f} may be noise: undecided." in sentence(gain, within)
    assert "seesaw has only moved the operating point" in sentence(gain, beyond)
    assert f"Noise explains differences up to {beyond.difference:.4f}." in sentence(gain, beyond)
    assert "for the best of several it explains more" in sentence(replace(gain, arms=9), beyond)


def test_means_over_seeds_are_compared_and_need_less(tmp_path: Path) -> None:
    """The noise is that of the calibrated Dice; two runs of the baseline, three of the other."""
    again = replace(BASELINE, own=(0.62, 0.57), seed=1)
    others = [replace(MOVED, own=(0.6 + s, 0.56 + s), signature="m", seed=i) for i, s in enumerate((0.0, 0.02, 0.04))]
    sweep = sweep_of(tmp_path, BASELINE, again, *others)
    (gain,) = gains(sweep)
    assert (gain.arms, gain.runs, gain.base_runs) == (1, 3, 2)
    assert (gain.base, gain.best) == pytest.approx((0.585, 0.6))
    noise = calibrated_noise(sweep)
    assert noise is not None
    assert (noise.dof, noise.sd) == (3, pytest.approx(math.sqrt((0.0002 + 2 * 0.0004) / 3)))
    assert gain.margin(noise) == pytest.approx(t_critical(3, 0.05) * noise.sd * math.sqrt(1 / 3 + 1 / 2))
    assert f"A difference below {gain.margin(noise):.4f} may be noise: undecided." in verdicts(sweep)[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"status": "running"}, "has not finished"),
        ({"status": "stopped early"}, "was stopped at epoch 1 of 3: its row is not a fair one"),
        ({"status": "failed: error"}, "failed (out_of_memory: RuntimeError: out of memory)"),
    ],
)
def test_a_baseline_that_did_not_finish_compares_with_nothing(tmp_path: Path, change: dict, expected: str) -> None:
    (text,) = verdicts(sweep_of(tmp_path, replace(BASELINE, **change), MOVED))
    assert expected in text
    assert "no family is compared with it" in text


def test_classes_that_cannot_be_calibrated_are_named(tmp_path: Path) -> None:
    half = replace(BASELINE, dice=[(0.5, float("nan"))], own=(0.6, float("nan")))
    sweep = sweep_of(tmp_path, BASELINE)
    folder = sweep.folder / "trials" / "0000_weight_uniform"
    write_validation(folder, half, ("nuc", "pm"))
    history = json.loads((folder / "history.jsonl").read_text())
    (folder / "history.jsonl").write_text(json.dumps(history | {"dice/pm": None, "mean_dice": 0.5}) + "\n")
    text = summarise(sweep.folder)
    assert "Not calibrated, counted at 0.5: pm: no validation crop shows the class." in text


@pytest.mark.parametrize("word", ["rank_by=threshold", "rank_by=", "rank_by=Dice"])
def test_another_ranking_is_refused_in_one_sentence(
    tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_of(tmp_path, BASELINE).folder
    monkeypatch.setattr("sys.argv", ["summary", f"sweep={folder}", word])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "choose one of dice, calibrated" in message


def test_calibrated_ranks_by_a_class_too_and_by_nothing_else(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, BASELINE, MOVED)
    text = summarise(sweep.folder, rank_by="calibrated", by="pm")
    assert "calibrated pm" in text
    assert text.index("0000_weight_uniform") < text.index("0001_seesaw_default")
    assert json.loads(summarise(sweep.folder, rank_by="calibrated", format="json"))["rank_by"] == "calibrated_mean_dice"
    with pytest.raises(SettingsError, match="rank_by=calibrated ranks by Dice only"):
        SummarySettings(rank_by="calibrated", by="mean_iou")
    with pytest.raises(InputError, match=r"by=golgi rank_by=calibrated.*nuc, pm"):
        summarise(sweep.folder, rank_by="calibrated", by="golgi")


def test_the_summary_shows_the_thresholds_of_the_first_row_and_the_baseline(tmp_path: Path) -> None:
    rows = json.loads(summarise(sweep_of(tmp_path, BASELINE, MOVED).folder, format="json"))["thresholds"]
    assert [(row["name"], row["class"]) for row in rows] == [
        (name, c) for name in ("0001_seesaw_default", "0000_weight_uniform") for c in ("nuc", "pm")
    ]
    assert rows[2]["gap"] == pytest.approx(0.1)
    assert rows[2]["threshold"] > 0.5
