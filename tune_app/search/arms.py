"""Which configurations a sweep tries before, or instead of, searching."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from search_spaces import (
    PUBLISHED,
    Choice,
    ClassCounts,
    Int,
    Parameter,
    Preset,
    Sections,
    Space,
    all_presets,
    get_family,
    get_preset,
    parameters_of,
    space_of,
    trial_of,
    trial_signature,
    untuned,
)
from trainables.losses import make_rule
from trainables.settings import require
from tune_app.errors import InputError
from tune_app.settings.fitting import of_trial
from tune_app.settings.schema import FROM, MOST_TRIALS, Settings

MOST_LISTED = 1000
"""Points of a space that are gone through to find one that was not tried; in a larger one a search hardly repeats."""
MOST_VALUES = 10_000
"""In an exported configuration; one of ours has about a hundred."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of a sweep with a seed: a point of a family's space, a named preset, or what was trained
    before."""

    family: str
    """The family whose terms `point` is in; `all` for points of the joint space."""
    point: Mapping[str, Any]
    seed: int
    preset: str = ""
    searched: Mapping[str, Any] = field(default_factory=dict)
    """The point in the coordinates of the searched space, for the sampler to learn from; empty where it has none."""
    trained: Sections | None = None
    """The ready-made sections of a configuration that was trained before."""
    name: str = ""
    """What it was called then."""

    @property
    def label(self) -> str:
        """Short name for folders and tables, for example seesaw_p0.8_q2."""
        if self.name or self.preset:
            return self.name or self.preset
        if self.family != "all" and (label := get_family(self.family).label):
            return label(self.point)[:80]
        parts = [f"{name.rsplit('.', 1)[-1]}{_word(v)}" for name, v in sorted(self.point.items()) if name != "family"]
        return "_".join([self.own_family, *parts])[:80]

    @property
    def own_family(self) -> str:
        """The family itself where `family` is `all`."""
        return str(self.point.get("family", self.family))

    def trial(self, counts: ClassCounts) -> Sections:
        """The sections as the trial is told: `loss`, and those whose settings lie over the sweep's."""
        return self.trained or trial_of(self.family, self.point, counts)

    def signature(self, counts: ClassCounts, window_voxels: float | None) -> str:
        """Equal for arms that come out as the same training."""
        return trial_signature(self.trial(counts), counts, window_voxels=window_voxels)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(map(_word, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def searched_space(settings: Settings) -> Space:
    """The space that is searched, narrowed by space.…; empty for compare, preset= and trial=."""
    if not settings.single_arms:
        return space_of(settings.family, settings.narrowed, settings.families)
    what = "trial=" if settings.trial else "preset=" if settings.preset else "family=compare"
    for key, given in (("space.from", settings.space.get(FROM)), ("search.prior", settings.search.prior)):
        if given:
            raise InputError(f"{key}={given}: {what} searches nothing. Leave {key} out, or search a family")
    if settings.space:
        raise InputError(f"space.{next(iter(settings.space))}: {what} has no space to narrow. Leave space.… out")
    return {}


def planned_arms(settings: Settings, space: Space) -> list[Arm]:
    """The arms that are fixed beforehand, in order: presets first, then the grid of a grid search.

    As they are written, before `with_baseline` knows the data: it leaves out repeats and what is too many.
    """
    seeds = range(settings.seed, settings.seed + settings.seeds)
    if settings.trial:
        return [exported_arm(Path(settings.trial), seed) for seed in seeds]
    if settings.single_arms:
        presets = (
            [get_preset(settings.preset)] if settings.preset else [p for p in compared(settings) if _suits(p, settings)]
        )
        return [_preset_arm(preset, seed, {}) for seed in seeds for preset in presets]
    if settings.seeds > 1:
        raise InputError(
            f"seeds={settings.seeds}: a search has no fixed arms to repeat; family=compare, preset= and trial= have. "
            "Leave seeds= out, or give one of these"
        )
    arms = in_turn(_presets_of(settings, space)) if settings.search.presets_first else []
    if settings.search.name != "grid":
        return arms
    tried = [dict(arm.searched) for arm in arms]
    on_grid = grid_arms(settings.family, space, settings.search.grid_points, settings.seed)
    return arms + [arm for arm in on_grid if arm.point not in tried]


def compared(settings: Settings) -> list[Preset]:
    """The arms of family=compare: every preset of the families of the experiment, else the published comparison."""
    if settings.families:
        return [preset for preset in all_presets().values() if preset.family in settings.families]
    return [get_preset(name) for name in PUBLISHED]


def in_turn(arms: Iterable[Arm]) -> list[Arm]:
    """One of each family, then the second of each, and so on: whatever a search is stopped at, it has seen them all."""
    families: dict[str, list[Arm]] = {}
    for arm in arms:
        families.setdefault(arm.family, []).append(arm)
    rounds = itertools.zip_longest(*families.values())
    return [arm for one_of_each in rounds for arm in one_of_each if arm is not None]


def with_baseline(
    settings: Settings, arms: list[Arm], space: Space, counts: ClassCounts, window_voxels: float
) -> tuple[list[Arm], str]:
    """The arms that are tried: the planned ones with the untuned baseline among them, and the baseline's label.

    A search trains what comes out as the same once, begins with the baseline, and has no more arms than trials; a list
    (compare, preset=, trial=, a grid) stays as it is written. An arm that comes out as the baseline is the baseline,
    whatever its name, and no other is added. "" where `search.baseline` wants none.
    """
    if not settings.listed:
        arms = distinct(arms, counts, window_voxels)[: settings.search.num_samples]
    baseline = baseline_arm(settings, space)
    signature = baseline.signature(counts, window_voxels)
    same = next((arm for arm in arms if arm.signature(counts, window_voxels) == signature), None)
    first = same or baseline
    wanted = settings.search.baseline
    if wanted is None:
        begins = settings.search.name == "grid" or settings.search.num_samples > 1
        wanted = same is not None or (begins and not settings.single_arms)
    if not wanted:
        return arms, ""
    if settings.single_arms:
        seeds = [] if same else dict.fromkeys(arm.seed for arm in arms)
        return arms + [replace(baseline, seed=seed) for seed in seeds], first.label
    ordered = [first, *(arm for arm in arms if arm is not first)]
    return ordered if settings.listed else ordered[: settings.search.num_samples], first.label


def baseline_arm(settings: Settings, space: Space) -> Arm:
    """The untuned baseline of the family, with its place in the searched space where it has one. An axis that is fixed
    for every trial and that its preset leaves open, it shares: with space.scale=small it is small."""
    preset, joint = untuned(settings.family, settings.families), settings.family == "all"
    within = joint or (settings.family == preset.family and bool(space))
    if within and not joint:
        fixed = {name: parameter.grid(1)[0] for name, parameter in space.items() if parameter.fixed}
        preset = preset._replace(point=fixed | preset.point)
    return _preset_arm(preset, settings.seed, _searched_point(preset, space, joint=joint) if within else {})


def _preset_arm(preset: Preset, seed: int, searched: Mapping[str, Any]) -> Arm:
    return Arm(family=preset.family, point=preset.point, seed=seed, preset=preset.name, searched=searched)


def _presets_of(settings: Settings, space: Space) -> Iterator[Arm]:
    """The presets of the family (of every chosen one for `all`) that the narrowed space has not excluded."""
    joint = settings.family == "all"
    for preset in all_presets().values():
        if joint and preset.family not in space["family"].grid(1):
            continue
        if (joint or preset.family == settings.family) and _suits(preset, settings):
            searched = _searched_point(preset, space, joint=joint)
            if searched or not _narrowed(settings, preset.family, joint=joint):
                yield _preset_arm(preset, settings.seed, searched)


def _suits(preset: Preset, settings: Settings) -> bool:
    return get_family(preset.family).suits(preset.name, settings.outputs)


def left_out(settings: Settings) -> list[str]:
    """Presets that compare, or the chosen families, would try with other classes than these."""
    if settings.preset or settings.trial:
        return []
    listed = settings.families and settings.family in ("compare", "all")
    wanted = [
        preset
        for preset in all_presets().values()
        if (preset.family in settings.families if listed else settings.family in ("compare", "all", preset.family))
    ]
    return [preset.name for preset in wanted if not _suits(preset, settings)]


def _searched_point(preset: Preset, space: Space, *, joint: bool) -> dict[str, Any]:
    prefix = f"{preset.family}." if joint else ""
    own = {key.removeprefix(prefix): p for key, p in (parameters_of(space, preset.family) if joint else space).items()}
    point = get_family(preset.family).searched_point(preset.name, own)
    if point is None:
        return {}
    return ({"family": preset.family} if joint else {}) | {f"{prefix}{key}": value for key, value in point.items()}


def _narrowed(settings: Settings, family: str, *, joint: bool) -> bool:
    """True where the person narrowed this family's own parameters: presets outside are then not wanted."""
    return (
        bool(settings.narrowed.get(family)) or any(k.startswith(f"{family}.") for k in settings.narrowed)
        if joint
        else bool(settings.narrowed)
    )


def grid(space: Space, points: int) -> Iterator[dict[str, Any]]:
    """Every combination of `points` values per number and all options of a choice, in the joint space per family."""
    outer = {name: parameter for name, parameter in space.items() if "." not in name}
    for point in _product(outer, points):
        for inner in _product(parameters_of(space, str(point.get("family", ""))), points):
            yield point | inner


def grid_arms(family: str, space: Space, points: int, seed: int) -> list[Arm]:
    """An arm for every point of the grid. Raises InputError where there are more than a sweep can hold."""
    size = math.prod(len(parameter.grid(points)) for parameter in space.values())
    require(
        size <= MOST_TRIALS,
        "search.grid_points",
        points,
        f"the grid has {size} points, and a sweep at most {MOST_TRIALS} trials",
        "Give fewer, or narrow the space",
    )
    return [Arm(family=family, point=point, seed=seed, searched=point) for point in grid(space, points)]


def end_arms(settings: Settings, space: Space) -> list[Arm]:
    """Points at both ends of every axis of a family, the other axes at their beginning; [] for the joint space."""
    if settings.family == "all":
        return []
    first = {name: parameter.grid(1)[0] for name, parameter in space.items()}
    points = [{**first, name: value} for name, parameter in space.items() for value in parameter.grid(2)]
    return [Arm(family=settings.family, point=point, seed=settings.seed) for point in points]


def sizes(settings: Settings, arms: Iterable[Arm], space: Space, counts: ClassCounts) -> list[Settings]:
    """The settings of the trials of these arms and, unless the arms are all there is, of those at the ends of the
    axes. Raises SettingsError where the data lack what a loss needs."""
    ends, found = [] if settings.listed else end_arms(settings, space), []
    for trial in (arm.trial(counts) for arm in (*arms, *ends)):
        found.append(of_trial(settings, trial))
        make_rule(trial["loss"]["name"], trial["loss"]["params"], counts.classes).check_maps(found[-1].data.maps)
    return found


def all_arms(family: str, space: Space, seed: int) -> list[Arm] | None:
    """The arms of a space with few points; None for any other. Some may come out as the same training."""
    if math.prod(map(num_values, space.values())) > MOST_LISTED:
        return None
    return grid_arms(family, space, MOST_LISTED + 1, seed)


def num_values(parameter: Parameter) -> float:
    """How many values an axis has."""
    if parameter.fixed:
        return 1
    if isinstance(parameter, Choice):
        return len(parameter.options)
    return parameter.high - parameter.low + 1 if isinstance(parameter, Int) else math.inf


def num_trials(settings: Settings, arms: Sequence[Arm], space: Space, counts: ClassCounts, window_voxels: float) -> int:
    """Trials of a whole sweep, its planned arms included: no more than there are different configurations."""
    if not space or settings.search.name == "grid":
        return len(arms)
    every = all_arms(settings.family, space, settings.seed)
    wanted = settings.search.num_samples
    return wanted if every is None else min(wanted, len(distinct([*arms, *every], counts, window_voxels)))


def _product(space: Space, points: int) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*(parameter.grid(points) for parameter in space.values())):
        yield dict(zip(space, values))


def exported_arm(path: Path, seed: int) -> Arm:
    """The arm of an exported config.yaml, under the name it was exported with; a preset only where it was one."""
    config = read_exported(path)
    return Arm(
        family=str(config.get("family") or config["loss"]["name"]),
        point={},
        seed=seed,
        trained={"loss": config["loss"]},
        preset=str(config.get("preset") or ""),
        name=str(config.get("name") or path.parent.name),
    )


def read_exported(path: Path) -> dict[str, Any]:
    """The mapping in an exported config.yaml, or in the folder that holds it. Raises InputError where it holds none."""
    path = path / "config.yaml" if path.is_dir() else path
    make_one = "Make one with python -m tune_app.export sweep=latest, and give trial=best/1/config.yaml"
    if not path.is_file():
        raise InputError(f"trial={path}: there is no such file. {make_one}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"trial={path}: cannot be read ({error.strerror}). {make_one}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"trial={path}: no valid YAML ({str(error).splitlines()[0]}). {make_one}") from None
    except RecursionError:
        raise InputError(f"trial={path}: no exported configuration, it is nested too deeply. {make_one}") from None
    problem = exported_problem(config)
    if problem:
        raise InputError(f"trial={path}: no exported configuration, {problem}. {make_one}")
    return config


def exported_problem(config: Any) -> str:
    """What keeps the content of a file from being an exported configuration; "" where nothing does.

    Sections are only asked to be mappings: their settings are checked where they are merged.
    """
    if isinstance(config, dict) and config.get("ensemble"):
        return "it is an ensemble of several networks, each of which is under its `members`"
    sections = ("loss", "data", "model", "trainer")
    missing = [key for key in sections if not isinstance(config, dict) or not isinstance(config.get(key), dict)]
    if missing or not {"name", "params"} <= config["loss"].keys():
        return f"it lacks {', '.join(missing) or 'loss.params'}"
    if not isinstance(config["loss"]["name"], str) or not isinstance(config["loss"]["params"], dict):
        return "loss needs a name and a mapping of params"
    for key in ("name", "preset", "family"):  # they name the folder of a trial
        value = config.get(key)
        fits = isinstance(value, str) and value.isprintable() and "/" not in value and len(value.encode()) <= 200
        if value is not None and not fits:
            return f"{key}={str(value)[:60]!r}: must be a name of up to 200 bytes, without / and control characters"
    seed = config.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**63:
        return f"seed={str(seed)[:60]}: must be a whole number from 0 to 2⁶³ − 1"
    left = [config]
    for seen, value in enumerate(left):  # what is listed in it is appended on the way
        if seen > MOST_VALUES:
            return f"it holds more than {MOST_VALUES} values"
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list | set) else ()
    return ""


def distinct(arms: Iterable[Arm], counts: ClassCounts, window_voxels: float) -> list[Arm]:
    """The arms without those that come out as the same training as an earlier one."""
    first: dict[str, Arm] = {}
    for arm in arms:
        first.setdefault(arm.signature(counts, window_voxels), arm)
    return list(first.values())


def same_arms(arms: Iterable[Arm], counts: ClassCounts, window_voxels: float | None = None) -> list[list[str]]:
    """Groups of differently named arms that come out as the same training."""
    groups: dict[str, list[str]] = {}
    for arm in arms:
        names = groups.setdefault(arm.signature(counts, window_voxels), [])
        if arm.label not in names:
            names.append(arm.label)
    return [names for names in groups.values() if len(names) > 1]
