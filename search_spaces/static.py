"""static: fixed class weights, loss = mean_c(w_c · L_c).

Searched: κ with w_c ∝ f_c^−κ, max = 1. That normalisation is the one of the published vectors, so κ = 0, ½ and 1 *are*
weight_uniform, weight_sqrt_inv and weight_inv_freq; AdamW hardly sees the scale. On request one free weight per class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Float
from trainables.losses import STATIC_RULES, SettingsError, power_weights, static_vector

MANUAL = {"nuc": 1.8, "mito_mem": 1.3, "er_mem": 1.6, "pm": 1.6, "golgi_mem": 1.1}
"""The hand-made published vector; it has a meaning for these five classes only."""
KAPPA_OF_RULE = {"uniform": 0.0, "sqrt_inv": 0.5, "inv_freq": 1.0}
FREE = "weight_"


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"kappa": κ}, {"weights": rule or list}, or {"weight_<class>": w, …} (1 for classes not named)."""
    return {"name": "static", "params": {"weights": weights(point, counts)}}


def weights(point: Mapping[str, Any], counts: ClassCounts) -> list[float]:
    """The weight of every class, in the order of the counts."""
    free = {key.removeprefix(FREE): value for key, value in point.items() if key.startswith(FREE)}
    if free:
        return free_weights(free, counts)
    if "kappa" in point:
        return power_weights(*tensors(counts), float(point["kappa"])).tolist()
    wanted = point.get("weights")
    if isinstance(wanted, str):
        return named_weights(wanted, counts)
    if isinstance(wanted, list | tuple):
        return list(wanted)
    raise SettingsError(
        f"static: {dict(point)} names no weights.\n"
        f"Give kappa, one weight_<class> each, or weights: a list or one of {', '.join((*STATIC_RULES, 'manual'))}"
    )


def named_weights(rule: str, counts: ClassCounts) -> list[float]:
    if rule == "manual":
        return manual_weights(counts)
    if rule not in STATIC_RULES:
        raise SettingsError(f"static: weights={rule} is no rule.\nChoose one of {', '.join((*STATIC_RULES, 'manual'))}")
    return static_vector(rule, *tensors(counts)).tolist()


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


def tensors(counts: ClassCounts) -> tuple[torch.Tensor, torch.Tensor]:
    """positive and known, each (C,) float64."""
    return torch.tensor(counts.positive, dtype=torch.float64), torch.tensor(counts.known, dtype=torch.float64)


def searched(point: Mapping[str, Any]) -> dict[str, Any] | None:
    kappa = KAPPA_OF_RULE.get(point.get("weights", ""))
    return None if kappa is None else {"kappa": kappa}


FAMILY = Family(
    name="static",
    space={"kappa": Float(0.0, 1.5, symbol="κ", help="exponent of the class share, 0 uniform, 1 inverse frequency")},
    optional={f"{FREE}*": Float(0.05, 20.0, log=True, symbol="w_c", help="weight of one class", replaces="kappa")},
    presets={
        "weight_uniform": {"weights": "uniform"},
        "weight_manual": {"weights": "manual"},
        "weight_inv_freq": {"weights": "inv_freq"},
        "weight_sqrt_inv": {"weights": "sqrt_inv"},
        "weight_log_inv": {"weights": "log_inv"},
        "weight_effective_num": {"weights": "effective_num"},
    },
    loss=loss,
    searched=searched,
    cite="inverse-frequency weighting; effective_num: Cui et al. 2019, arXiv:1901.05555",
    help="fixed weight per class",
)
