"""What a new sweep takes from an earlier one, and from a point that is written: box, prior, words, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from planned import composed_of, settings_of
from sweep_folder import WrittenTrial, write_sweep

from search_spaces import Choice, Float, Int, families
from trainables.errors import SettingsError
from tune_app.errors import InputError
from tune_app.search.arms import planned_arms, searched_space
from tune_app.search.warm_start import at, box_of, place, told_of, warmed
from tune_app.settings.command_line import compose
from tune_app.settings.schema import BEST, FROM, Settings, WarmSettings
from tune_app.settings.stored import stored_settings
from tune_app.sweep.begin import planned
from tune_app.sweep.resume import going_on

POINTS = [(0.3, 2.0), (0.5, 1.0), (0.9, 3.0), (1.9, 0.1), (1.5, 2.2)]
"""p and q of an earlier sweep, best first."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def earlier(
    folder: Path, points: list[dict[str, Any]], *, name: str = "old", families: list[str] | None = None, **manifest: Any
) -> Path:
    """A finished sweep whose first point is the best, and each that follows worse."""
    trials = [
        WrittenTrial(
            label=f"t{i}",
            dice=[(0.1, 0.1), (0.9 - 0.05 * i,) * 2],
            params={key: value for key, value in point.items() if key != "family"},
            family=families[i] if families else "seesaw",
            status="finished" if i % 2 else "stopped early",
            weights=False,
        )
        for i, point in enumerate(points)
    ]
    path = write_sweep(folder / "results" / name, trials)
    told = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(told | manifest))
    return path


def of_seesaw(folder: Path, **more: Any) -> Path:
    return earlier(folder, [{"p": p, "q": q} for p, q in POINTS], **more)


def begun(*words: str) -> Settings:
    return warmed(settings_of(*words))


def test_the_box_is_the_smallest_round_the_best_trials(here: Path) -> None:
    of_seesaw(here)
    settings = begun("family=seesaw", "space.from=old", "space.best=3")
    assert settings.warm == WarmSettings(box_of="old", best=3, trials=5, box={"p": [0.3, 0.9], "q": [1.0, 3.0]})
    space = searched_space(settings)
    whole, box = space["p"], box_of(settings, space)["p"]
    assert isinstance(whole, Float)
    assert isinstance(box, Float)
    assert (whole.low, whole.high) == (0.0, 2.0), "the space itself stays whole"
    assert (box.low, box.high, box.log) == (0.3, 0.9, whole.log)
    (line,) = told_of(settings)
    assert line.startswith(
        "p 0.3 … 0.9, q 1 … 3: the smallest box round the best 3 of the 5 trials of old that lie in this space."
    )
    assert begun("family=seesaw", f"space.from={here}/results/old").warm.best == 5, "of a path"


def test_the_presets_stay_those_of_the_family(here: Path) -> None:
    of_seesaw(here)
    warm, cold = begun("family=seesaw", "space.from=old"), settings_of("family=seesaw")
    assert planned_arms(warm, searched_space(warm)) == planned_arms(cold, searched_space(cold))


def test_a_parameter_in_which_all_are_alike_is_widened_and_said(here: Path) -> None:
    earlier(here, [{"p": 1.0, "q": 4.0}, {"p": 1.0, "q": 4.0}])
    settings = begun("family=seesaw", "space.from=old")
    assert settings.warm.widened == ["p", "q"]
    assert settings.warm.box["p"] == pytest.approx([0.9, 1.1]), "p lies in 0 … 2"
    assert settings.warm.box["q"][1] == searched_space(settings)["q"].grid(2)[1] == 4.0, "and no further than q goes"
    assert "alike in p, q: there the box was widened by 5%" in told_of(settings)[0]


def test_a_space_narrowed_by_hand_stays_as_narrow(here: Path) -> None:
    of_seesaw(here)
    settings = begun("family=seesaw", "space.from=old", "space.p=[0.4,1.0]", "space.q=2.0")
    assert settings.warm.box == {"p": [0.5, 0.9]}, "what lies outside tells nothing"
    assert (settings.warm.best, settings.warm.trials) == (2, 2)


def test_only_what_both_know_is_boxed(here: Path) -> None:
    earlier(here, [{"p": 0.4, "kappa": 3.0}, {"p": 0.6, "kappa": 4.0}])
    assert begun("family=seesaw", "space.from=old").warm.box == {"p": [0.4, 0.6]}


def test_a_joint_space_takes_the_trials_of_a_family_as_its_own(here: Path) -> None:
    earlier(
        here, [{"p": 0.4, "q": 1.0}, {"p": 0.6, "q": 2.0}, {"fp_weight": 0.3}], families=["seesaw", "seesaw", "tversky"]
    )
    settings = begun("family=all", "space.from=old", "space.best=2")
    assert settings.warm.box == {"seesaw.p": [0.4, 0.6], "seesaw.q": [1.0, 2.0]}
    assert box_of(settings, searched_space(settings))["seesaw.p"].grid(2) == [0.4, 0.6]


def test_a_single_family_takes_its_own_trials_from_a_joint_space(here: Path) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial
    from sweep_folder import open_study

    path = earlier(here, [], name="old")
    study = open_study(path)
    points = [("seesaw", "p", 0.4), ("balanced_softmax", "tau", 1.0), ("seesaw", "p", 0.7)]
    for number, (family, key, value) in enumerate(points):
        name = f"{number:04d}_t"
        params = {"family": family, f"{family}.{key}": value}
        axes = {
            "family": CategoricalDistribution(["seesaw", "balanced_softmax"]),
            f"{family}.{key}": FloatDistribution(0, 2),
        }
        told = {"name": name, "family": family, "seed": 0, "loss": {"name": family, "params": {key: value}}}
        study.add_trial(
            create_trial(value=0.5, params=params, distributions=axes, intermediate_values={1: 0.5}, user_attrs=told)
        )
        (path / "trials" / name).mkdir()
        (path / "trials" / name / "history.jsonl").write_text(json.dumps({"epoch": 1, "mean_dice": 0.5}) + "\n")
    assert begun("family=seesaw", "space.from=old").warm.box == {"p": [0.4, 0.7]}
    assert begun("family=all", "space.from=old").warm.box == {
        "family": ["balanced_softmax", "seesaw"],
        "seesaw.p": [0.4, 0.7],
        "balanced_softmax.tau": pytest.approx([0.85, 1.15]),
    }


def test_a_prior_is_a_point_or_the_best_of_a_sweep(here: Path) -> None:
    of_seesaw(here)
    assert begun("family=seesaw", "search.prior=old").warm == WarmSettings(
        point={"p": 0.3, "q": 2.0}, point_of="0000_t0 of old"
    )
    written = composed("family=seesaw", "search.prior=p=8e-1,q=2")
    assert planned(written).warm == WarmSettings(point={"p": 0.8, "q": 2})
    joint = begun("family=all", "search.prior=tversky.fp_weight=0.3")
    assert joint.warm.point == {"family": "tversky", "tversky.fp_weight": 0.3}
    (line,) = told_of(joint)
    assert "up to 1 proposal round family=tversky, tversky.fp_weight=0.3" in line
    assert "published configurations come first, and there are 12 trials: give more, search.num_samples=" in line
    (line,) = told_of(begun("family=all", "search.prior=tversky.fp_weight=0.3", "search.num_samples=60"))
    assert "up to 8 proposals round family=tversky, tversky.fp_weight=0.3" in line
    assert "come first" not in line
    assert "which is 0000_t0 of old" in told_of(begun("family=seesaw", "search.prior=old"))[0]


def composed(*words: str) -> Any:
    found = compose("run", Settings, words)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("space.from=none",), "space.from=none: does not exist"),
        (("search.prior=none",), "search.prior=none: does not exist"),
        (("space.from=bare",), "space.from=bare: 0 of its 2 trials have a score and a point"),
        (("space.from=single",), "space.from=single: 1 of its 1 trial has a score and a point"),
        (("space.from=least",), "space.from=least: least looked for the best mean_dice (min)"),
        (("search.prior=least",), "search.prior=least: least looked for the best mean_dice (min)"),
        (("space.from=foreign",), "space.from=foreign: its trials have gamma, and none of them lies in"),
        (("search.prior=r=1",), "search.prior=r=1: seesaw has no parameter r"),
        (("search.prior=p=0.8,p=0.9",), "search.prior=p=0.8,p=0.9: p is given twice"),
        (("search.prior=p=0.8,q",), "p=0.8,q cannot be read. Write it like p=0.8,q=2"),
        (("search.prior=p=",), "search.prior=p=: p= cannot be read"),
        (("search.prior=p=9",), "search.prior=p=9: p=9 lies outside what is searched, [0.0, 2.0]"),
        (("search.prior=p=1", "space.p=1.0"), "search.prior=p=1: p is fixed by space.…"),
        (("search.prior=seesaw.p=1,tversky.fp_weight=0.3", "family=all"), "has parameters of seesaw, tversky"),
        (("space.from=old", "family=compare"), "space.from=old: family=compare searches nothing"),
        (("search.prior=old", "preset=seesaw_default"), "search.prior=old: preset= searches nothing"),
    ],
)
def test_what_cannot_help_is_refused_with_the_fix(here: Path, words: tuple[str, ...], said: str) -> None:
    of_seesaw(here)
    earlier(here, [{}, {}], name="bare")
    earlier(here, [{"p": 1.0}], name="single")
    of_seesaw(here, name="least", mode="min")
    earlier(here, [{"gamma": 1.0}, {"gamma": 2.0}], name="foreign")
    settings = settings_of("family=seesaw", *words)
    with pytest.raises(InputError) as refused:
        searched_space(warmed(settings))
    assert said in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("space.from=old", "space.best=1"), "space.best=1: a box is of a whole number of trials, 2 or more"),
        (("space.from=old", "space.best=many"), "space.best=many: a box is of"),
        (("space.best=5",), "space.best=5: is of the trials of space.from="),
        (("space.from=",), "space.from=: a sweep is needed"),
        (("space.from=old", "search=grid"), "space.from=old: a grid is listed beforehand"),
        (("search.prior=p=1", "search=grid"), "search.prior=p=1: a grid is listed beforehand"),
        (("search.prior_width=0",), "search.prior_width=0.0: must lie in (0, 1]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=r".*") as refused:
        composed("family=seesaw", *words)
    assert said in str(refused.value)


def test_a_sweep_that_goes_on_needs_the_earlier_one_no_more(here: Path) -> None:
    old = of_seesaw(here)
    settings = planned(composed("family=seesaw", "space.from=old", "search.prior=old"))
    folder = write_sweep(here / "results" / "new", [], status="interrupted")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings.as_dict()))
    old.rename(here / "elsewhere")
    assert stored_settings(folder).warm == settings.warm
    resumed, _ = going_on(composed_of("resume=new"))
    assert resumed.warm == settings.warm
    assert box_of(resumed, searched_space(resumed))["p"].contains(0.3)
    assert going_on(composed_of("resume=new", "space.from=old"))[0].warm == settings.warm
    with pytest.raises(InputError, match=r"space\.from=other: sweep new was started with space\.from=old"):
        going_on(composed_of("resume=new", "space.from=other"))


def test_a_path_is_written_as_in_any_shell(here: Path) -> None:
    (here / "a b, c").mkdir()
    of_seesaw(here / "a b, c")
    assert planned(composed("family=seesaw", "space.from=a b, c/results/old")).warm.box_of == "old"


def test_no_family_has_a_parameter_of_these_names() -> None:
    names = {name for family in families().values() for name in (*family.space, *family.optional)}
    assert not names & {FROM, BEST}


@pytest.mark.parametrize("axis", [Float(0.001, 10.0, log=True), Float(-1.0, 3.0), Int(1, 64, log=True), Int(0, 9)])
def test_a_place_on_an_axis_goes_there_and_back(axis: Float | Int) -> None:
    for value in axis.grid(5):
        assert at(axis, place(axis, value)) == pytest.approx(value)
    assert (at(axis, -3.0), at(axis, 7.0)) == (axis.low, axis.high), "not beyond its ends"
    assert not isinstance(axis, Choice)
