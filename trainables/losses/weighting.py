"""What a weighting rule is: parameters in, factors out. One file per rule beside this one.

Shapes: C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from trainables.losses.terms import TERMS
from trainables.settings import require, require_choice

PUBLISHED_FP_WEIGHT = 0.6
PUBLISHED_FN_WEIGHT = 0.4
FREQUENCIES = ("count", "share")


class Counts(NamedTuple):
    """Voxels per class, each (C,) float64; zeros before anything was counted."""

    positive: Tensor
    known: Tensor


class Factors(NamedTuple):
    """What a rule makes of counts, each (C,): class weight, shift inside the training loss, shift at validation."""

    weight: Tensor
    shift: Tensor
    inference_shift: Tensor


def neutral_factors(counts: Counts) -> Factors:
    """Unit weights and no shift, on the device of the counts."""
    zero = torch.zeros_like(counts.positive)
    return Factors(zero + 1.0, zero, zero)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A weighting rule with its parameters: checked when made, immutable, no tensors inside.

    online: the factors follow the counts. windowed: they use counts per window instead of the running total.
    """

    num_classes: int
    fp_weight: float = PUBLISHED_FP_WEIGHT
    fn_weight: float = PUBLISHED_FN_WEIGHT
    compensation_gate: float = 0.0
    compensation_exponent: float = 1.0
    cross_entropy: float = 0.0
    """Share λ of the binary cross-entropy beside Tversky, in [0, 1]."""
    both: float = 1.0
    """Weight of Tversky and cross-entropy together, ≥ 0."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Weight of each other term, see `trainables.losses.terms`; those that are not named are not computed."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Parameters of these terms; absent: their defaults."""

    curriculum_from: float = 0.0
    """Epochs in which Dice alone is trained, with the weight of all terms together."""
    curriculum_ramp: float = 0.0
    """Epochs in which the weights then move to their own."""

    online: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False
    """Whether it is for labels that exclude each other, by softmax; else every class is learnt by itself."""
    choices: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters this rule takes."""

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        """The rule for plain parameters; SettingsError names the parameter, the rule and the fix."""
        raise NotImplementedError

    def check_maps(self, packed: bool) -> None:
        """Raise SettingsError where a term needs maps of the labels and data.maps has none packed."""
        needing = ", ".join(name for name, weight in self.terms.items() if weight and TERMS[name].uses_maps)
        rule = f"the loss has terms that need distances or skeletons of the labels: {needing}"
        require(packed or not needing, "data.maps", packed, rule, "Use data.maps=true")

    def factors(self, counts: Counts) -> Factors:
        """The factors at these counts; neutral for a class that was never seen."""
        raise NotImplementedError


def read_number(params: Mapping[str, Any], name: str, low: float, high: float, default: float | None = None) -> float:
    """A finite number in [low, high] from the parameters, or the default; SettingsError otherwise."""
    value = params.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    require(
        is_number and low <= value,
        f"loss.params.{name}",
        value,
        f"must be a number of at least {low}",
        f"Give {name} a value in [{low}, {high}]",
    )
    assert isinstance(value, int | float)
    require(value <= high, f"loss.params.{name}", value, f"must be at most {high}", f"Use a value in [{low}, {high}]")
    return float(value)


def read_frequency(params: Mapping[str, Any]) -> str:
    """`count` (default, published) or `share`."""
    value = params.get("frequency", "count")
    require_choice("loss.params.frequency", value, FREQUENCIES)
    return str(value)
