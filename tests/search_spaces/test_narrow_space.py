"""Fixing and narrowing axes from the command line."""

from __future__ import annotations

import pytest

from search_spaces import Choice, Float, narrow, space_of
from trainables.losses import SettingsError


def test_a_value_fixes_and_a_list_narrows_the_rest_stays() -> None:
    space = space_of("seesaw", {"p": 0.8, "q": [1, 3]})
    assert (space["p"].low, space["p"].high) == (0.8, 0.8)
    assert space["p"].fixed
    assert (space["q"].low, space["q"].high) == (1.0, 3.0)
    assert space_of("seesaw", {}) == space_of("seesaw")
    assert space_of("seesaw")["p"] == Float(0.0, 2.0, symbol="p", help="mitigation exponent")


def test_the_message_gives_value_range_meaning_and_fix() -> None:
    with pytest.raises(SettingsError) as caught:
        space_of("seesaw", {"p": 3.5})
    assert str(caught.value) == (
        "space.p: 3.5 lies outside seesaw's range for p, [0.0, 2.0] (mitigation exponent).\n"
        "Choose a value or a [low, high] inside it: space.p=1 or space.p=[0.5,1.5]"
    )


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("seesaw", {"p": [0.5, 2.5]}, r"space\.p: 2\.5 lies outside"),
        ("seesaw", {"p": [1.2, 0.5]}, r"is no range: two numbers low ≤ high"),
        ("seesaw", {"p": [0.5, 0.6, 0.7]}, r"is no range"),
        ("seesaw", {"p": "high"}, r"high is not a number; seesaw's range"),
        ("seesaw", {"p": True}, r"True is not a number"),
        ("seesaw", {"p": float("nan")}, r"is not a number"),
        ("seesaw", {"tau": 1.0}, r"seesaw has no parameter tau.*\n.*p, q; on request frequency"),
        ("balanced_softmax", {"apply_at": "test"}, r"test is invalid; .*train, inference, paper"),
        ("balanced_softmax", {"apply_at": ["train", "test"]}, r"test is invalid; "),
        ("balanced_softmax", {"apply_at": []}, r"leaves nothing to choose"),
        ("class_balanced", {"one_minus_beta": 0.0}, r"\[1e-08, 0\.01\]"),
        ("all", {"seesaw.p": 9}, r"space\.seesaw\.p: 9 lies outside"),
        ("all", {"family": "sesaw"}, r"sesaw is invalid; all's options for family are"),
        ("all", {"p": 1.0}, r"all has no parameter p"),
    ],
)
def test_what_does_not_fit_is_refused(family: str, overrides: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        space_of(family, overrides)


def test_optional_parameters_enter_only_when_asked_for() -> None:
    assert set(space_of("balanced_softmax")) == {"tau"}
    asked = space_of("balanced_softmax", {"apply_at": ["train", "paper"]})
    assert set(asked) == {"tau", "apply_at"}
    assert asked["apply_at"].options == ("train", "paper")
    assert space_of("tversky", {"fn_weight": [0.2, 0.5]})["fn_weight"].high == 0.5


def test_free_class_weights_replace_kappa_unless_it_is_asked_for() -> None:
    assert set(space_of("static", {"weight_nuc": [0.1, 1], "weight_pm": 2})) == {"weight_nuc", "weight_pm"}
    assert set(space_of("static", {"weight_nuc": [0.1, 1], "kappa": 0.5})) == {"weight_nuc", "kappa"}


def test_narrowing_does_not_change_the_space_it_was_given() -> None:
    space = {"x": Float(0, 1), "kind": Choice(("a", "b"))}
    narrowed = narrow(space, {"x": 0.5, "kind": "a"})
    assert (narrowed["x"].fixed, narrowed["kind"].fixed) == (True, True)
    assert space == {"x": Float(0, 1), "kind": Choice(("a", "b"))}


def test_grids_are_even_in_the_logarithm_where_the_axis_is_log() -> None:
    assert Float(0.0, 1.0).grid(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert Float(1e-8, 1e-2, log=True).grid(4) == pytest.approx([1e-8, 1e-6, 1e-4, 1e-2])
    assert Float(1e-8, 1e-2, log=True).grid(4)[-1] == 1e-2
    assert Float(0.3, 0.3).grid(7) == [0.3]
    assert Choice(("a", "b")).grid(5) == ["a", "b"]


def test_impossible_axes_are_refused_when_made() -> None:
    with pytest.raises(SettingsError, match="`low > 0` must hold for log=True, got low=0"):
        Float(0, 1, log=True)
    with pytest.raises(SettingsError, match="low <= high"):
        Float(2, 1)
    with pytest.raises(SettingsError, match="different options"):
        Choice(("a", "a"))
