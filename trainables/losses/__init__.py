"""Losses by name: `build` makes one, `reset` on it makes another in the same storage.

static, class_balanced, balanced_softmax, seesaw and tversky are per-class Tversky losses, mixture has a share of
cross-entropy, composite is a sum of weighted terms; the first four use fp_weight 0.6 and fn_weight 0.4. cross_entropy
is that of a softmax, a module of its own. One file per weighting rule; formulas in weights.py, tversky.py and terms.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from trainables.errors import SettingsError
from trainables.losses.balanced_softmax import APPLY_AT, BalancedSoftmax
from trainables.losses.class_balanced import ClassBalanced
from trainables.losses.composite import Composite
from trainables.losses.cross_entropy import SMOOTHINGS, CrossEntropy, SoftmaxCrossEntropy
from trainables.losses.mixture import Mixture
from trainables.losses.seesaw import Seesaw
from trainables.losses.static import FreeTversky, Static
from trainables.losses.weighted_tversky import WeightedTversky
from trainables.losses.weighting import FREQUENCIES, Counts, Factors, Rule
from trainables.losses.weights import STATIC_RULES, comparable_counts, power_weights, static_vector
from trainables.settings import require

RULES: dict[str, type[Rule]] = {
    "static": Static,
    "class_balanced": ClassBalanced,
    "balanced_softmax": BalancedSoftmax,
    "seesaw": Seesaw,
    "tversky": FreeTversky,
    "mixture": Mixture,
    "composite": Composite,
    "cross_entropy": CrossEntropy,
}

__all__ = [
    "APPLY_AT",
    "FREQUENCIES",
    "RULES",
    "SMOOTHINGS",
    "STATIC_RULES",
    "Counts",
    "Factors",
    "Rule",
    "SettingsError",
    "WeightedTversky",
    "build",
    "comparable_counts",
    "is_exclusive",
    "make_rule",
    "power_weights",
    "static_vector",
]


def make_rule(name: str, params: Mapping[str, Any], classes: Sequence[str]) -> Rule:
    """The weighting rule of a family with its parameters; SettingsError lists the choices."""
    require(name in RULES, "loss.name", name, f"choose one of {', '.join(RULES)}", "For example loss.name=static")
    for key, value in params.items():
        choices = RULES[name].choices
        require(
            key in choices,
            f"loss.params.{key}",
            value,
            f"{name} has no such parameter",
            f"Choices: {', '.join(choices)}",
        )
    return RULES[name].from_params(params, classes)


def is_exclusive(name: str) -> bool:
    """Whether the loss of this name is for labels that exclude each other: then it is a module of another kind, which
    `reset` does not turn into one of the others."""
    return name in RULES and RULES[name].exclusive


def build(
    name: str,
    params: Mapping[str, Any],
    classes: Sequence[str],
    *,
    count_update_every: int = 50,
    count_window: str = "50",
) -> WeightedTversky:
    """A fresh loss of family `name`; SettingsError (a ValueError) for an unknown name or a parameter out of range.

    count_update_every: batches between two updates of count-based weights. count_window: batches over which
    class_balanced averages its counts, or `all` for the published running total.

        loss = build("seesaw", {"p": 0.8, "q": 2.0}, ["nuc", "pm"])
        value, figures = loss(logits, target)
    """
    names = tuple(classes)
    kind = SoftmaxCrossEntropy if is_exclusive(name) else WeightedTversky
    module = kind(names, partial(make_rule, classes=names))
    module.reset(name, params, count_update_every=count_update_every, count_window=str(count_window))
    return module
