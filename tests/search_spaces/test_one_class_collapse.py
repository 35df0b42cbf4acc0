"""Weights of classes by hand, and what a point says of loss, network and trainer."""

from __future__ import annotations

import pytest

from search_spaces import ClassCounts, get_family, trial_of, trial_signature
from search_spaces.one_class_collapse import weights

COUNTS = ClassCounts(("a", "b", "c", "d"), (369.0, 242.0, 321.0, 129.0), (1061.0,) * 4)
POINT = get_family("one_class_collapse").presets["collapse_published_fix"]


def test_inverse_frequency_is_the_total_over_classes_times_count() -> None:
    assert weights("inverse_frequency", COUNTS) == pytest.approx([1061 / (4 * n) for n in COUNTS.positive])
    assert weights("none", COUNTS) == [1.0] * 4


def test_effective_number_lies_between_none_and_inverse_frequency() -> None:
    def ratio(beta: float) -> float:
        found = weights("effective_number", COUNTS, 1 - beta)
        assert sum(found) == pytest.approx(4.0)
        return found[3] / found[0]

    by_hand = (1 - 0.999**369) / (1 - 0.999**129)
    assert ratio(0.999) == pytest.approx(by_hand)
    assert ratio(1e-9) == pytest.approx(1.0)
    assert ratio(1 - 1e-9) == pytest.approx(369 / 129, rel=1e-5)


def test_a_class_that_was_never_seen_weighs_one() -> None:
    counts = ClassCounts(("a", "b"), (10.0, 0.0), (10.0, 10.0))
    assert [weights(name, counts)[1] for name in ("inverse_frequency", "effective_number")] == [1.0, 1.0]


def test_the_published_fix_is_what_was_published() -> None:
    trial = trial_of("one_class_collapse", POINT, COUNTS)
    assert trial["loss"]["params"] | {"weights": []} == {"weights": [], "epsilon": 0.05, "smoothing": "seed"}
    assert trial["model"] == {"options": {"head": "mlp"}}
    assert trial["trainer"] == {"lr": 3e-3, "lr_encoder": 1e-5, "unfreeze_epoch": 3}
    asked = trial_of("one_class_collapse", POINT | {"epsilon": 0.1}, COUNTS)
    assert asked["loss"]["params"]["epsilon"] == 0.1


def test_every_axis_is_another_training_and_a_formula_without_smoothing_is_none() -> None:
    def signature(**changed: object) -> str:
        return trial_signature(trial_of("one_class_collapse", POINT | changed, COUNTS), COUNTS)

    others = {"weighting": "none", "smoothing": "torch", "head": "linear", "unfreeze_epoch": -1, "lr_head": 1e-3}
    assert len({signature(), *(signature(**{name: value}) for name, value in others.items())}) == 6
    assert "smoothing" not in signature(smoothing="none")
