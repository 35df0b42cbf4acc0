"""Families: a search space, named presets, and how a point becomes a trial. One file per family beside this.

A trial's config has sections: `loss`, and where the family says so `model`, `trainer`, `data` and `resources`, whose
settings lie over those of the sweep. `family=all` searches the families that give a loss and nothing else.

The file name is the name on the command line. A family is found by being there: a module of this package, without a
leading underscore, with a `FAMILY`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from search_spaces._counts import ClassCounts
from search_spaces._parameters import Choice, Parameter, Space, flatten, narrow
from trainables.losses import Counts, SettingsError, make_rule
from trainables.losses.terms import NUMBERS_OF

PUBLISHED = (
    "weight_uniform",
    "weight_manual",
    "weight_inv_freq",
    "weight_sqrt_inv",
    "weight_log_inv",
    "weight_effective_num",
    "cb_beta_0.99",
    "cb_beta_0.999",
    "cb_beta_0.9999",
    "balanced_softmax_tau_0.5",
    "balanced_softmax_tau_1.0",
    "balanced_softmax_tau_2.0",
    "seesaw_default",
    "seesaw_strong_mitigate",
    "seesaw_strong_compensate",
)
"""The fifteen named configurations of the published comparison, in its order."""

Point = Mapping[str, Any]
LossConfig = dict[str, Any]
Sections = dict[str, dict[str, Any]]
UNIFORM = "weight_uniform"
"""The preset that is the untuned baseline where a family names no other: every class weighs the same."""


def uniform_loss(point: Point, counts: ClassCounts) -> LossConfig:
    """The loss of `weight_uniform`, whatever the point."""
    return {"name": "static", "params": {"weights": [1.0] * len(counts.classes)}}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family: what is searched, what is tried first, and how a point becomes the sections of a trial."""

    name: str
    """As on the command line; the file's name."""
    space: Space
    """Searched by default."""
    presets: dict[str, dict[str, Any]]
    """Named points, in the family's own terms; tried before the searcher."""
    cite: str
    """Where the method comes from."""
    loss: Callable[[Point, ClassCounts], LossConfig] = uniform_loss
    """A searched or a preset point → {"name", "params"} for trainables.losses.build."""
    settings: Callable[[Point], Sections] | None = None
    """A point → settings that lie over the sweep's: {"model": {"width": 32}, "resources": {"cpus_per_trial": 2}}. None
    for a family of losses."""
    baseline: str = UNIFORM
    """The preset, of this family or of another, that everything is compared with: nothing is tuned in it."""
    help: str = ""
    """One line for people."""
    optional: Space = field(default_factory=dict)
    """Enters the space only when asked for (`space.NAME=…`); keys may be patterns."""
    searched: Callable[[Point], dict[str, Any] | None] = lambda point: dict(point)
    """A preset point in the coordinates of `space`, or None where it has none there."""
    in_all: bool = True
    """Whether `family=all` searches it, too, where it is one of losses."""
    label: Callable[[Point], str] | None = None
    """A short name of a point, for folders and tables; None: its values with their names."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Axes that a choice of the command line fixes: {"network": "model"} where `model=NAME` means network NAME."""
    preset_classes: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Presets that give each class a weight by its name, and those classes: of use for no others."""

    def trial(self, point: Point, counts: ClassCounts) -> Sections:
        """The sections of the trial of a point, `loss` always; checked as far as they can be without a sweep."""
        loss = self.loss(point, counts)
        make_rule(loss["name"], loss["params"], counts.classes)
        return {"loss": loss, **(self.settings(point) if self.settings else {})}

    def tune_space(self) -> dict[str, Any]:
        """The space as domains of Ray Tune, see `search_spaces.tune_space`."""
        return tune_space(self.name)

    def narrow(self, overrides: Mapping[str, Any]) -> Space:
        """This family's space with `space.NAME=…` of the command line applied."""
        return narrow(self.space, overrides, family=self.name, optional=self.optional)

    def suits(self, preset: str, classes: Collection[str]) -> bool:
        """Whether a preset can be used for these classes."""
        return set(self.preset_classes.get(preset, classes)) == set(classes)

    def searched_point(self, preset: str, space: Space | None = None) -> dict[str, Any] | None:
        """A preset as a point of `space` (default: the whole one), to tell a searcher of; None if outside."""
        space = self.space if space is None else space
        point = self.searched(self.presets[preset])
        inside = (
            point is not None and point.keys() == space.keys() and all(space[k].contains(v) for k, v in point.items())
        )
        return point if inside else None


class Preset(NamedTuple):
    """A named configuration."""

    name: str
    family: str
    point: dict[str, Any]


def families() -> dict[str, Family]:
    """All families by name, alphabetically: every module of this package that defines FAMILY."""
    package = importlib.import_module("search_spaces")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    modules = {name: importlib.import_module(f"search_spaces.{name}") for name in names}
    found = {name: module.FAMILY for name, module in modules.items() if hasattr(module, "FAMILY")}
    for name, family in found.items():
        assert family.name == name, f"search_spaces/{name}.py calls its family {family.name}"
    return found


def get_family(name: str) -> Family:
    """The family of this name; SettingsError lists the choices."""
    found = families()
    if name not in found:
        close = difflib.get_close_matches(name, [*found, "all", "compare"], n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise SettingsError(
            f"family={name}: there is no such family.{hint}\n"
            f"Choose one of {', '.join(found)}, all or compare: family=seesaw"
        )
    return found[name]


def all_presets() -> dict[str, Preset]:
    """Every preset by name: the published ones first, in their order, then the rest."""
    presets = {n: Preset(n, f.name, dict(point)) for f in families().values() for n, point in f.presets.items()}
    ordered = [name for name in PUBLISHED if name in presets] + [name for name in presets if name not in PUBLISHED]
    return {name: presets[name] for name in ordered}


def get_preset(name: str) -> Preset:
    """The preset of this name; SettingsError lists the choices."""
    presets = all_presets()
    if name not in presets:
        close = difflib.get_close_matches(name, presets, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise SettingsError(
            f"preset={name}: there is no such preset.{hint}\nChoose one of {', '.join(presets)}: preset=seesaw_default"
        )
    return presets[name]


def untuned(family: str, together: Sequence[str] = ()) -> Preset:
    """The untuned baseline of a family; for `all` and `compare` that of the first of those that are searched together,
    that of the losses where none are named; that one for a family that is no longer there, too."""
    found, chosen = families(), family if family not in ("all", "compare") or not together else together[0]
    return get_preset(found[chosen].baseline if chosen in found else UNIFORM)


def together_in_all(names: Sequence[str] = ()) -> dict[str, Family]:
    """What `all` searches: the families of these names; without any, those whose points are losses and nothing else.

    Raises SettingsError for a name that is no family, and for one whose points are more than losses.
    """
    for name in names:
        if get_family(name).settings is not None:
            raise SettingsError(f"families={list(names)}: {name} is no family of losses. Leave it out")
    if names:
        return {name: get_family(name) for name in names}
    return {name: family for name, family in families().items() if family.settings is None and family.in_all}


def all_families_space(names: Sequence[str] = ()) -> Space:
    """The space of family=all: `family`, and every family's parameters as "seesaw.p", used only where it is chosen."""
    found = together_in_all(names)
    space: Space = {"family": Choice(tuple(found), help="loss family")}
    return space | {f"{name}.{key}": p for name, family in found.items() for key, p in family.space.items()}


def parameters_of(space: Mapping[str, Parameter], family: str) -> Space:
    """The part of an `all` space that is live once `family` is chosen, keys in full ("seesaw.p")."""
    return {key: parameter for key, parameter in space.items() if key.startswith(f"{family}.")}


def space_of(name: str, overrides: Mapping[str, Any] | None = None, together: Sequence[str] = ()) -> Space:
    """The search space of a family or of `all`, narrowed by the `space.…` settings (nested or dotted).

    together: names of what `all` searches, see `together_in_all`.
    """
    if name != "all":
        return get_family(name).narrow(overrides or {})
    found = together_in_all(together)
    optional = {f"{n}.{key}": p for n, family in found.items() for key, p in family.optional.items()}
    space = narrow(all_families_space(together), overrides or {}, family="all", optional=optional)
    for dropped in _replaced_in_all(flatten(overrides or {}), found):
        space.pop(dropped, None)
    chosen = space["family"]
    assert isinstance(chosen, Choice)
    return {key: p for key, p in space.items() if key == "family" or key.split(".")[0] in chosen.options}


def tune_space(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`space_of` as domains of Ray Tune, for the `param_space` of a Tuner: `tune.uniform`, `loguniform`, `randint`,
    `lograndint` and `choice`; a fixed axis is its value.

    What is used only where its family is chosen ("seesaw.p" of `all`), and a simplex, is `tune.sample_from`, which
    Tune's own random search takes and OptunaSearch does not; where another family is chosen it is None.
    """
    from search_spaces._tune import domains  # which imports ray

    return domains(space_of(name, overrides))


def _replaced_in_all(overrides: Mapping[str, Any], found: Mapping[str, Family]) -> set[str]:
    """Full keys that optional parameters of single families push out of the space of `all`."""
    own: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        family, _, parameter = key.partition(".")
        if parameter:
            own.setdefault(family, {})[parameter] = value
    return {
        f"{family}.{key}"
        for family, values in own.items()
        for key in found[family].space.keys() - found[family].narrow(values).keys()
    }


def trial_of(name: str, point: Point, counts: ClassCounts) -> Sections:
    """The sections of a searched or preset point of a family, or of `all`."""
    if name != "all":
        return get_family(name).trial(point, counts)
    family = get_family(str(point.get("family")))
    own = {key.split(".", 1)[1]: v for key, v in point.items() if key.startswith(f"{family.name}.")}
    return family.trial(own, counts)


def loss_of(name: str, point: Point, counts: ClassCounts) -> LossConfig:
    """{"name", "params"} of a searched or preset point of a family, or of `all`; checked, so `build` will take it."""
    return trial_of(name, point, counts)["loss"]


def preset_loss(name: str, counts: ClassCounts) -> LossConfig:
    """{"name", "params"} of a preset at these counts."""
    preset = get_preset(name)
    return loss_of(preset.family, preset.point, counts)


def effective_signature(loss: Mapping[str, Any], counts: ClassCounts, *, window_voxels: float | None = None) -> str:
    """One line that is equal for configurations that are effectively the same loss on data with these counts.

    Weights and shifts are evaluated at `counts` and rounded to 6 digits; rules that follow counts online stay apart
    from fixed ones unless they end up neutral. window_voxels: annotated voxels per class and count window, where that
    differs from what was counted (the published counts are those of one window of 50 batches).
    """
    rule = make_rule(loss["name"], loss["params"], counts.classes)
    factors = rule.factors(_window_counts(counts, window_voxels))
    rows = [[float(f"{v:.6g}") + 0.0 for v in values.tolist()] for values in factors]
    if rule.exclusive:
        rest = {name: value for name, value in loss["params"].items() if name != "weights"}
        return f"softmax {loss['name']} weight={rows[0]} {sorted(rest.items())}"
    neutral = rows[0] == [1.0] * len(rows[0]) and not any(rows[1] + rows[2])
    parts = [f"tversky(fp={rule.fp_weight:g}, fn={rule.fn_weight:g})"] if rule.both and rule.cross_entropy < 1 else []
    parts.append(f"weight={rows[0]}")
    parts += [f"{name}={row}" for name, row in zip(("shift", "inference_shift"), rows[1:], strict=True) if any(row)]
    if rule.compensation_gate:
        parts.append(f"compensation(q={rule.compensation_exponent:g})")
    if rule.cross_entropy:
        parts.append(f"cross_entropy={rule.cross_entropy:g}")
    if rule.terms:
        used = [number for term, weight in rule.terms.items() if weight for number in NUMBERS_OF.get(term, ())]
        chosen = {"both": rule.both, **rule.terms, **{number: rule.numbers.get(number, 0.0) for number in used}}
        parts += [f"{name}={value:.6g}" for name, value in chosen.items() if value]
    for name in ("curriculum_from", "curriculum_ramp"):
        parts += [f"{name}={value:g}"] if (value := getattr(rule, name)) else []
    if rule.online and not neutral:
        parts.append(f"online {loss['name']} {sorted(loss['params'].items())}")
    return " ".join(parts)


def trial_signature(trial: Sections, counts: ClassCounts, *, window_voxels: float | None = None) -> str:
    """One line that is equal for trials that are effectively the same training, the seed aside: the signature of the
    loss, then every setting that the point gave."""
    parts = [effective_signature(trial["loss"], counts, window_voxels=window_voxels)]
    for key, value in sorted(flatten({name: values for name, values in trial.items() if name != "loss"}).items()):
        parts.append(f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}")
    return " ".join(parts)


def _window_counts(counts: ClassCounts, window_voxels: float | None) -> Counts:
    positive = torch.tensor(counts.positive, dtype=torch.float64)
    known = torch.tensor(counts.known, dtype=torch.float64)
    if window_voxels is not None:
        scale = torch.where(known > 0, window_voxels / known.clamp_min(1.0), 0.0)
        positive, known = positive * scale, known * scale
    return Counts(positive, known)
