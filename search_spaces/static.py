"""static: fixed class weights, loss = mean_c(w_c · L_c).

Searched: κ with w_c ∝ n_c^−κ, max = 1. That normalisation is the one of the published vectors, so κ = 0, ½ and 1 *are*
weight_uniform, weight_sqrt_inv and weight_inv_freq; AdamW hardly sees the scale. On request one free weight per class.
Every derived vector uses the same n, as the online families do; see docs/decisions/counts-behind-static-weights.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Choice, Float
from trainables.losses import FREQUENCIES, STATIC_RULES, SettingsError, comparable_counts, power_weights, static_vector

MANUAL = {"nuc": 1.8, "mito_mem": 1.3, "er_mem": 1.6, "pm": 1.6, "golgi_mem": 1.1}
"""The hand-made published vector; it has a meaning for these five classes only."""
KAPPA_OF_RULE = {"uniform": 0.0, "sqrt_inv": 0.5, "inv_freq": 1.0}
FREE = "weight_"


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"kappa": κ}, {"weights": rule or list}, or {"weight_<class>": w, …} (1 for classes not named).

    With κ or a rule, `frequency` on request.
    """
    return {"name": "static", "params": {"weights": weights(point, counts)}}


def weights(point: Mapping[str, Any], counts: ClassCounts) -> list[float]:
    """The weight of every class, in the order of the counts."""
    free = {key.removeprefix(FREE): value for key, value in point.items() if key.startswith(FREE)}
    if free:
        return free_weights(free, counts)
    positive, known = (torch.tensor(values, dtype=torch.float64) for values in (counts.positive, counts.known))
    n = comparable_counts(positive, known, point.get("frequency", "count"))
    if "kappa" in point:
        return power_weights(n, float(point["kappa"])).tolist()
    wanted = point.get("weights")
    if wanted == "manual":
        return manual_weights(counts)
    if wanted in STATIC_RULES:
        return static_vector(wanted, n).tolist()
    if isinstance(wanted, str):
        raise SettingsError(
            f"static: weights={wanted} is no rule.\nChoose one of {', '.join((*STATIC_RULES, 'manual'))}"
        )
    if isinstance(wanted, list | tuple):
        return list(wanted)
    raise SettingsError(
        f"static: {dict(point)} names no weights.\n"
        f"Give kappa, one weight_<class> each, or weights: a list or one of {', '.join((*STATIC_RULES, 'manual'))}"
    )


def manual_weights(counts: ClassCounts) -> list[float]:
    if set(counts.classes) != set(MANUAL):
        raise SettingsError(
            f"weight_manual: its weights are for {', '.join(MANUAL)} only, the data has {', '.join(counts.classes)}.\n"
            "Give weights of your own, space.weight_<class>=…, or use weight_inv_freq, which derives from the data"
        )
    return [MANUAL[name] for name in counts.classes]


def free_weights(free: Mapping[str, Any], counts: ClassCounts) -> list[float]:
    unknown = [name for name in free if name not in counts.classes]
    if unknown:
        raise SettingsError(
            f"space.{FREE}{unknown[0]}: there is no class {unknown[0]}.\nChoose from {', '.join(counts.classes)}"
        )
    return [float(free.get(name, 1.0)) for name in counts.classes]


def searched(point: Mapping[str, Any]) -> dict[str, Any] | None:
    kappa = KAPPA_OF_RULE.get(point.get("weights", ""))
    return None if kappa is None else {"kappa": kappa}


FAMILY = Family(
    name="static",
    space={"kappa": Float(0.0, 1.5, symbol="κ", help="exponent of the class count, 0 uniform, 1 inverse frequency")},
    optional={
        "frequency": Choice(FREQUENCIES, help="raw counts, or counts as if all classes were annotated alike"),
        f"{FREE}*": Float(0.05, 20.0, log=True, symbol="w_c", help="weight of one class", replaces="kappa"),
    },
    presets={
        "weight_uniform": {"weights": "uniform"},
        "weight_manual": {"weights": "manual"},
        "weight_inv_freq": {"weights": "inv_freq"},
        "weight_sqrt_inv": {"weights": "sqrt_inv"},
        "weight_log_inv": {"weights": "log_inv"},
        "weight_effective_num": {"weights": "effective_num"},
    },
    preset_classes={"weight_manual": tuple(MANUAL)},
    loss=loss,
    searched=searched,
    cite="inverse-frequency weighting; effective_num: Cui et al. 2019, arXiv:1901.05555",
    help="fixed weight per class",
)
