"""The axes of a search space, and how the command line fixes or narrows them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]. `low > 0` must hold for log=True."""

    low: int
    high: int
    log: bool = False
    symbol: str = ""
    help: str = ""
    replaces: str = ""

    def __post_init__(self) -> None:
        if not (type(self.low) is type(self.high) is int):
            raise SettingsError(f"low and high must be whole numbers, got low={self.low}, high={self.high}")
        Float(self.low, self.high, self.log)

    @property
    def fixed(self) -> bool:
        return self.low == self.high

    def contains(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def grid(self, points: int) -> list[int]:
        """Up to `points` different values from low to high, spaced as those of a Float."""
        if points > self.high - self.low:
            return list(range(self.low, self.high + 1))
        return sorted({round(value) for value in Float(self.low, self.high, self.log).grid(points)})

    def describe(self) -> str:
        return f"[{self.low}, {self.high}], whole numbers"


LEAST = 1e-9
"""The beginning of the axes of a simplex: −ln u is finite there."""


@dataclass(frozen=True)
class Simplex:
    """Weights of `parts` that are ≥ 0 and sum to 1, as of a mixture. In a point, a list in the order of the parts.

    Searched as independent axes u_i in (0, 1], one for each part: w_i = ln u_i / Σ_j ln u_j. Of uniform u the −ln u_i
    are exponential, so the weights are uniform on the simplex: their density is (k − 1)! for k parts, Dirichlet(1, …,
    1) (Devroye 1986, Non-Uniform Random Variate Generation, V.2). A sampler that learns models the u_i, of which a
    whole curve gives the same weights.
    """

    parts: tuple[str, ...]
    symbol: str = ""
    help: str = ""
    replaces: str = ""
    kept: tuple[str, ...] = ()
    """Parts that may weigh something; empty: all."""
    weights: tuple[float, ...] = ()
    """Where it is fixed, at these."""

    def __post_init__(self) -> None:
        parts, kept = tuple(self.parts), tuple(self.kept) or tuple(self.parts)
        if len(parts) < 2 or len(set(parts)) != len(parts):
            raise SettingsError(f"a simplex needs two or more different parts, got {list(parts)}")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "kept", tuple(part for part in parts if part in kept))

    @property
    def fixed(self) -> bool:
        return bool(self.weights) or len(self.kept) == 1

    def contains(self, value: Any) -> bool:
        """A list of as many numbers ≥ 0 as there are parts, with the sum 1 (± 1e-6); 0 for a part that is not kept."""
        if not isinstance(value, list | tuple) or len(value) != len(self.parts) or not all(map(_is_number, value)):
            return False
        outside = any(weight for part, weight in zip(self.parts, value) if part not in self.kept)
        return min(value) >= 0 and abs(math.fsum(value) - 1) <= 1e-6 and not outside

    def grid(self, points: int) -> list[list[float]]:
        """All weights that are multiples of 1/(points − 1); for one point, the middle."""
        if self.weights:
            return [list(self.weights)]
        if points == 1 or len(self.kept) == 1:
            return [self._filled([1 / len(self.kept)] * len(self.kept))]
        steps, bars = points - 1, len(self.kept) - 1
        found = []
        for places in itertools.combinations(range(steps + bars), bars):  # where the bars between the parts stand
            ends = (-1, *places, steps + bars)
            found.append(self._filled([(right - left - 1) / steps for left, right in itertools.pairwise(ends)]))
        return found

    def describe(self) -> str:
        return f"weights of {', '.join(self.kept)} that sum to 1"

    def axes(self, name: str) -> dict[str, Float]:
        """The independent axes, "mix[dice]" for the part `dice` of `mix`."""
        return {} if self.fixed else {f"{name}[{part}]": Float(LEAST, 1.0) for part in self.kept}

    def on_axes(self, name: str, weights: Sequence[float]) -> dict[str, float]:
        """A place on the axes that gives these weights: that where the −ln u_i have their mean, 1."""
        kept = [weight for part, weight in zip(self.parts, weights) if part in self.kept]
        return {axis: max(LEAST, math.exp(-len(kept) * w)) for axis, w in zip(self.axes(name), kept)}

    def of_axes(self, values: Iterable[float]) -> list[float]:
        """The weights at a place on the axes."""
        drawn = [-math.log(value) for value in values]
        total = math.fsum(drawn)
        return self._filled([value / total for value in drawn]) if total > 0 else self.grid(1)[0]

    def _filled(self, weights: Sequence[float]) -> list[float]:
        own = dict(zip(self.kept, weights))
        return [own.get(part, 0.0) for part in self.parts]


Parameter = Float | Int | Choice | Simplex
Space = dict[str, Parameter]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def independent(space: Mapping[str, Parameter]) -> dict[str, Float | Int | Choice]:
    """The axes of a space as a sampler takes them: those of a simplex in its place."""
    found: dict[str, Float | Int | Choice] = {}
    for name, parameter in space.items():
        found |= parameter.axes(name) if isinstance(parameter, Simplex) else {name: parameter}
    return found


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
    if isinstance(parameter, Simplex):
        return _narrow_simplex(name, parameter, wanted, family)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return _narrow_list(name, parameter, list(wanted), family)
    if not parameter.contains(wanted):
        raise _outside(name, parameter, wanted, family)
    if isinstance(parameter, Choice):
        return replace(parameter, options=(wanted,))
    return _between(parameter, wanted, wanted)


def _between(parameter: Float | Int, low: float, high: float) -> Float | Int:
    if isinstance(parameter, Int):
        return replace(parameter, low=int(low), high=int(high))
    return replace(parameter, low=float(low), high=float(high))


def _narrow_simplex(name: str, parameter: Simplex, wanted: Any, family: str) -> Simplex:
    """Fixed at weights, or narrowed to some of the parts."""
    listed = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if listed and all(isinstance(one, str) and one in parameter.kept for one in listed):
        return replace(parameter, kept=tuple(listed))
    words = [one for one in listed if isinstance(one, str)]
    if unknown := [word for word in words if word not in parameter.kept]:
        raise SettingsError(
            f"space.{name}: {', '.join(unknown)} is no part of {family}'s {name}.\n{_advice(name, parameter)}; "
            f"the parts are {', '.join(parameter.kept)}"
        )
    if not parameter.contains(wanted):
        raise _outside(name, parameter, wanted, family)
    return replace(parameter, weights=tuple(map(float, wanted)))


def _narrow_list(name: str, parameter: Float | Int | Choice, wanted: list[Any], family: str) -> Parameter:
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
    return _between(parameter, *wanted)


def _outside(name: str, parameter: Parameter, value: Any, family: str) -> SettingsError:
    about = f" ({parameter.help})" if parameter.help else ""
    if isinstance(parameter, Choice):
        rule = f"is invalid; {family}'s options for {name} are {parameter.describe()}{about}."
    elif isinstance(parameter, Simplex):
        rule = f"is not of the form of {family}'s {name}, {parameter.describe()}{about}."
    elif isinstance(parameter, Int) and _is_number(value) and value != int(value):
        rule = f"is not a whole number; {family}'s range for {name} is {parameter.describe()}{about}."
    elif _is_number(value):
        rule = f"lies outside {family}'s range for {name}, {parameter.describe()}{about}."
    else:
        rule = f"is not a number; {family}'s range for {name} is {parameter.describe()}{about}."
    return SettingsError(f"space.{name}: {value} {rule}\n{_advice(name, parameter)}")


def _advice(name: str, parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        listed = ",".join(str(option) for option in parameter.options[:2])
        return f"Choose one or a list of them: space.{name}={parameter.options[0]} or space.{name}=[{listed}]"
    if isinstance(parameter, Simplex):
        two = parameter.kept[:2]
        halves = ",".join("0.5" if part in two else "0" for part in parameter.parts)
        return f"Choose some parts, or all weights: space.{name}=[{','.join(two)}] or space.{name}=[{halves}]"
    values = parameter.grid(5)
    quarter = len(values) // 4
    value, lower, upper = (f"{x:.3g}" for x in (values[len(values) // 2], values[quarter], values[-1 - quarter]))
    return f"Choose a value or a [low, high] inside it: space.{name}={value} or space.{name}=[{lower},{upper}]"
