"""What an earlier sweep, or a point that a person expects to be good, says of where a new search should look first.

`warmed` reads them once, when a sweep begins, and puts what is kept into its settings: the box round the best trials of
space.from=, the point of search.prior=. `tune_app.search.guard` draws from them, as long as they are worth it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from search_spaces import Choice, Float, Int, Parameter, Simplex, Space, independent, narrow, parameters_of
from tune_app.errors import InputError
from tune_app.results.folders import find_sweep, spoken
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted
from tune_app.results.trial import Trial
from tune_app.search.arms import planned_arms, searched_space
from tune_app.search.study import recorded
from tune_app.settings.schema import BEST, BEST_OF, FEWEST, FROM, Settings, WarmSettings

WIDENED = 0.05
"""Share of a parameter's range on its own scale by which a box goes beyond a value that all of its trials share."""
BOX_DRAWS = 2
"""Proposals in a box at most, in `search.startup_trials`: as many again as TPE needs to begin with."""

Point = Mapping[str, Any]


def warmed(settings: Settings) -> Settings:
    """The settings of a sweep that begins, with what space.from= and search.prior= say. Raises InputError."""
    source, prior = settings.space.get(FROM), settings.search.prior
    if settings.single_arms or not (source or prior):
        return replace(settings, warm=WarmSettings())
    space, warm = searched_space(settings), WarmSettings()
    if source:
        warm = _boxed(settings, space, "space.from", str(source))
    if prior and "=" in prior:
        warm = replace(warm, point=_written(prior, space, settings.family))
    elif prior:
        sweep, points = _ranked_points(settings, space, "search.prior", prior, fewest=1)
        trial, point = points[0]
        warm = replace(warm, point=dict(point), point_of=f"{trial.name} of {_named(sweep)}")
    return replace(settings, warm=warm)


def box_of(settings: Settings, space: Space) -> Space:
    """The space of the box; {} where there is none, or it is as large as the whole space."""
    box = settings.warm.box
    return narrow(space, box, family=settings.family) if box else {}


def told_of(settings: Settings) -> list[str]:
    """Where the search begins, in a sentence for the box and one for the prior; none where it begins cold."""
    warm, told = settings.warm, list[str]()
    if not (warm.box_of or warm.point):
        return told
    space, begins = searched_space(settings), settings.search.startup_trials
    trials, planned = settings.search.num_samples, len(planned_arms(settings, space))
    if warm.box_of:
        of = f"the best {warm.best} of the {warm.trials} trials of {warm.box_of} that lie in this space"
        if warm.box:
            axes = [f"{name} {_range(axis)}" for name, axis in box_of(settings, space).items() if name in warm.box]
            most = min(max(1, trials - planned), BOX_DRAWS * begins)
            told.append(
                f"{', '.join(axes)}: the smallest box round {of}. Up to {counted(most, 'proposal')} lie in it, fewer "
                "where the rest of the space gives better trials"
            )
        else:
            told.append(f"{of} lie all over it, so all of it is searched")
        if warm.widened:
            alike = ", ".join(warm.widened)
            told[-1] += f". They are alike in {alike}: there the box was widened by {WIDENED:.0%} of the range each way"
    if warm.point:
        point = ", ".join(f"{name}={_short(value)}" for name, value in warm.point.items())
        of = f", which is {warm.point_of}" if warm.point_of else ""
        told.append(
            f"up to {counted(min(max(1, trials - planned), begins), 'proposal')} round {point}{of} (standard deviation "
            f"{settings.search.prior_width:g} of a range), fewer where they are not worth it"
        )
    if planned >= trials:
        told[-1] += (
            f". But the {counted(planned, 'published configuration')} come first, and there are {trials} trials: give "
            "more, search.num_samples=, or leave those out, search.presets_first=false"
        )
    return told


def _boxed(settings: Settings, space: Space, key: str, source: str) -> WarmSettings:
    wanted = settings.space.get(BEST, BEST_OF)
    sweep, ranked = _ranked_points(settings, space, key, source, fewest=FEWEST)
    points = [point for _, point in ranked[:wanted]]
    box, widened = box_round(points, space)
    return WarmSettings(box_of=_named(sweep), best=len(points), trials=len(ranked), box=box, widened=widened)


def box_round(points: Sequence[Point], space: Space) -> tuple[dict[str, Any], list[str]]:
    """({parameter: [low, high] or its options} of the smallest box, the parameters in which it was widened).

    Left out are parameters that no point has, and those of which the box is the whole.
    """
    box: dict[str, Any] = {}
    widened = []
    families = {str(point["family"]) for point in points if "family" in point}
    live = {name for family in families for name in parameters_of(space, family)}
    for name, axis in space.items():
        if axis.fixed or isinstance(axis, Simplex) or (families and "." in name and name not in live):
            continue
        values = [point[name] for point in points if name in point]
        if not values:
            continue
        if isinstance(axis, Choice):
            options = [option for option in axis.options if option in values]
            if len(options) < len(axis.options):
                box[name] = options
            continue
        low, high = min(values), max(values)
        if low == high:
            low, high = _widened(axis, low)
            widened.append(name)
        if (low, high) != (axis.low, axis.high):
            box[name] = [low, high]
    return box, widened


def _named(sweep: Sweep) -> str:
    """Its name, and whether its best may still change."""
    return f"{sweep.name} (still running)" if sweep.status == "running" else sweep.name


def _ranked_points(
    settings: Settings, space: Space, key: str, source: str, *, fewest: int
) -> tuple[Sweep, list[tuple[Trial, Point]]]:
    """The earlier sweep, and its ranked trials, best first, each with its point as far as the new space knows it."""
    sweep = Sweep(find_sweep(source, settings.results_dir, key=key))
    given, name = f"{key}={source}", spoken(sweep.folder)
    order = settings.order
    if (sweep.metric, sweep.mode) != (order.metric, order.mode):
        raise InputError(
            f"{given}: {sweep.name} looked for the best {sweep.metric} ({sweep.mode}), and this sweep looks for the "
            f"best {order.metric} ({order.mode}): what was good there need not be here. Give a sweep of the same "
            f"objective, or objective.metric={sweep.metric} objective.mode={sweep.mode}"
        )
    board = sweep.leaderboard()
    trials = [sweep.trial(trial) for trial in board.loc[board["rank"].notna(), "name"]]
    points = [(trial, trial.params) for trial in trials if trial.params]
    if len(points) < fewest:
        found = f"{len(points)} of its {counted(len(sweep.trials), 'trial')} {'has' if len(points) == 1 else 'have'}"
        raise InputError(
            f"{given}: {found} a score and a point of a searched space, and {counted(fewest, 'such trial')} are needed."
            f" Give a sweep that has searched; what this one has: python -m tune_app.summary sweep={name}"
        )
    known = [(trial, point) for trial, own in points if (point := _translated(trial, own, settings, space))]
    if len(known) < fewest:
        lie = f"only {counted(len(known), 'trial')} of them {'lies' if len(known) == 1 else 'lie'} in"
        raise InputError(
            f"{given}: its trials have {', '.join(dict.fromkeys(name for _, own in points for name in own))}, and "
            f"{lie if known else 'none of them lies in'} what is searched here, "
            f"{', '.join(name for name, axis in space.items() if not axis.fixed) or 'which is nothing'}. "
            "Give a sweep of the same family, or leave it out"
        )
    return sweep, known


def _translated(trial: Trial, own: Point, settings: Settings, space: Space) -> Point:
    """What the new space knows of the point of an earlier trial, on the axes of the sampler; {} of one outside it."""
    joint = settings.family == "all"
    if joint and "family" not in own:
        own = {f"{trial.family}.{name}": value for name, value in own.items()}
    elif not joint and "family" in own:
        prefix = f"{settings.family}."
        own = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
    axes = {name: axis for name, axis in independent(space).items() if not axis.fixed}
    point = {name: value for name, value in own.items() if name in axes}
    within = all(axes[name].contains(value) for name, value in point.items())
    chosen = not joint or space["family"].contains(trial.family)
    return point if within and chosen else {}


def _widened(axis: Float | Int, value: float) -> tuple[float, float]:
    """The interval round a single value, inside the axis."""
    low, high = (at(axis, place(axis, value) + step) for step in (-WIDENED, WIDENED))
    if isinstance(axis, Int):
        low, high = min(low, value - 1), max(high, value + 1)
    return max(axis.low, low), min(axis.high, high)


def place(axis: Float | Int, value: float) -> float:
    """Where a value lies on its axis, 0 at its low and 1 at its high end; in the logarithm where the axis is."""
    if axis.log:
        return math.log(value / axis.low) / math.log(axis.high / axis.low)
    return (value - axis.low) / (axis.high - axis.low)


def at(axis: Float | Int, where: float) -> float:
    """The value at a place, which is brought into [0, 1] first; whole on an Int."""
    inside = min(1.0, max(0.0, where))
    value = axis.low * (axis.high / axis.low) ** inside if axis.log else axis.low + (axis.high - axis.low) * inside
    value = min(axis.high, max(axis.low, value))
    return round(value) if isinstance(axis, Int) else value


def _written(prior: str, space: Space, family: str) -> dict[str, Any]:
    """The point p=0.8,q=2 on the axes of the sampler. Raises InputError for what is no point of the space."""
    point: dict[str, Any] = {}
    words = re.split(r",(?=[\w.]+=)", prior)  # a comma in a list is not followed by NAME=
    for word in words:
        name, _, _ = word.partition("=")
        if name not in space:
            raise InputError(
                f"search.prior={prior}: {family} has no parameter {name or word}. "
                f"Write NAME=VALUE,NAME=VALUE; choose from {', '.join(space)}"
            )
        if name in point:
            raise InputError(f"search.prior={prior}: {name} is given twice. Keep one of them")
        try:
            value = OverridesParser.create().parse_override(word).value()
        except HydraException:
            value = None
        if not isinstance(value, int | float | str | list) or value == "":
            raise InputError(f"search.prior={prior}: {word} cannot be read. Write it like p=0.8,q=2")
        point[name] = value
        if not space[name].contains(point[name]):
            raise InputError(
                f"search.prior={prior}: {name}={point[name]} lies outside what is searched, {space[name].describe()}. "
                "Give a value inside it"
            )
    inner = {name.split(".")[0] for name in point if "." in name} if "family" in space else set()
    if inner and "family" not in point and len(inner) == 1:
        point = {"family": inner.copy().pop(), **point}
    if inner and inner != {str(point.get("family"))}:
        raise InputError(
            f"search.prior={prior}: a point is of one family, and this has parameters of {', '.join(sorted(inner))}"
            f"{' and family=' + str(point['family']) if 'family' in point else ''}. Keep those of one"
        )
    on_axes, _ = recorded(space, point)
    if not on_axes:
        raise InputError(
            f"search.prior={prior}: {', '.join(point)} {'is' if len(point) == 1 else 'are'} fixed by space.…, so "
            "nothing is left to draw. Leave one of them out"
        )
    return on_axes


def _range(axis: Parameter) -> str:
    if isinstance(axis, Float | Int):
        return f"{axis.low:.4g} … {axis.high:.4g}"
    return axis.describe()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
