"""The axes of a search space, and how the command line fixes or narrows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from trainables.losses import SettingsError


@dataclass(frozen=True)
class Float:
    """A number in [low, high]. `low > 0` must hold for log=True."""

    low: float
    high: float
    log: bool = False
    symbol: str = ""
    """Its symbol in losses' formulas."""
    help: str = ""
    """A few words for people."""
    replaces: str = ""
    """A parameter that leaves the space when this optional one enters."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise SettingsError(f"`low <= high` must hold, got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise SettingsError(f"`low > 0` must hold for log=True, got low={self.low}")

    @property
    def fixed(self) -> bool:
        return self.low == self.high

    def contains(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def grid(self, points: int) -> list[float]:
        """`points` values from low to high, even in the logarithm where log; one value where fixed."""
        if self.fixed or points == 1:
            return [self.low]
        steps = [i / (points - 1) for i in range(points)]
        if self.log:
            inner = [self.low * (self.high / self.low) ** s for s in steps]
        else:
            inner = [self.low + (self.high - self.low) * s for s in steps]
        return [self.low, *inner[1:-1], self.high]

    def describe(self) -> str:
        return f"[{self.low}, {self.high}]"


@dataclass(frozen=True)
class Choice:
    """One of `options`."""

    options: tuple[Any, ...]
    symbol: str = ""
    help: str = ""
    replaces: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options or len(set(self.options)) != len(self.options):
            raise SettingsError(f"a choice needs different options, got {list(self.options)}")

    @property
    def fixed(self) -> bool:
        return len(self.options) == 1

    def contains(self, value: Any) -> bool:
        return value in self.options

    def grid(self, points: int) -> list[Any]:
        """All options, whatever `points` is."""
        return list(self.options)

    def describe(self) -> str:
        return ", ".join(str(option) for option in self.options)


Parameter = Float | Choice
Space = dict[str, Parameter]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def flatten(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"seesaw": {"p": 0.8}} → {"seesaw.p": 0.8}: nested mappings become dotted names."""
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def narrow(
    space: Mapping[str, Parameter],
    overrides: Mapping[str, Any],
    *,
    family: str = "this family",
    optional: Mapping[str, Parameter] | None = None,
) -> Space:
    """The space with some axes fixed to a value or narrowed to a range or to fewer options.

    {"p": 0.8} fixes, {"p": [0.5, 1.2]} narrows, {"apply_at": ["train", "paper"]} keeps those options. A name of
    `optional` (a pattern such as weight_* too) enters the space when asked for. SettingsError outside the range.
    """
    narrowed = dict(space)
    for name, wanted in flatten(overrides).items():
        parameter = _find(name, space, optional or {}, family, wanted)
        narrowed[name] = narrow_one(name, parameter, wanted, family)
        if parameter.replaces and parameter.replaces not in flatten(overrides):
            narrowed.pop(parameter.replaces, None)
    return narrowed


def _find(
    name: str, space: Mapping[str, Parameter], optional: Mapping[str, Parameter], family: str, wanted: Any
) -> Parameter:
    """The parameter of this name; SettingsError with the choices where there is none."""
    if name in space:
        return space[name]
    for pattern, parameter in optional.items():
        if fnmatchcase(name, pattern):
            return parameter
    on_request = f"; on request {', '.join(optional)}" if optional else ""
    raise SettingsError(
        f"space.{name}: {family} has no parameter {name} (given {wanted}).\nChoose from {', '.join(space)}{on_request}."
    )


def narrow_one(name: str, parameter: Parameter, wanted: Any, family: str) -> Parameter:
    """One axis fixed or narrowed; SettingsError in the form of style.md."""
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _narrow_list(name, parameter, list(wanted), family)
    if not parameter.contains(wanted):
        raise _outside(name, parameter, wanted, family)
    if isinstance(parameter, Float):
        return replace(parameter, low=float(wanted), high=float(wanted))
    return replace(parameter, options=(wanted,))


def _narrow_list(name: str, parameter: Parameter, wanted: list[Any], family: str) -> Parameter:
    for value in wanted:
        if not parameter.contains(value):
            raise _outside(name, parameter, value, family)
    if isinstance(parameter, Choice):
        if not wanted:
            raise SettingsError(f"space.{name}: [] leaves nothing to choose.\nKeep some of {parameter.describe()}")
        return replace(parameter, options=tuple(wanted))
    if len(wanted) != 2 or wanted[0] > wanted[1]:
        raise SettingsError(
            f"space.{name}: {wanted} is no range: two numbers low ≤ high are needed.\n{_advice(name, parameter)}"
        )
    return replace(parameter, low=float(wanted[0]), high=float(wanted[1]))


def _outside(name: str, parameter: Parameter, value: Any, family: str) -> SettingsError:
    about = f" ({parameter.help})" if parameter.help else ""
    if isinstance(parameter, Choice):
        rule = f"is none of {family}'s options for {name}: {parameter.describe()}{about}."
    elif _is_number(value):
        rule = f"lies outside {family}'s range for {name}, {parameter.describe()}{about}."
    else:
        rule = f"is not a number; {family}'s range for {name} is {parameter.describe()}{about}."
    return SettingsError(f"space.{name}: {value} {rule}\n{_advice(name, parameter)}")


def _advice(name: str, parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        listed = ",".join(str(option) for option in parameter.options[:2])
        return f"Choose one or a list of them: space.{name}={parameter.options[0]} or space.{name}=[{listed}]"
    low, middle, high = parameter.grid(5)[1:4] if not parameter.fixed else [parameter.low] * 3
    value, lower, upper = (f"{x:.3g}" for x in (middle, low, high))
    return f"Choose a value or a [low, high] inside it: space.{name}={value} or space.{name}=[{lower},{upper}]"
