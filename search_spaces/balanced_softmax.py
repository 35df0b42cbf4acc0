"""balanced_softmax: logits shifted by −τ·(ln n_c − mean ln n) inside the training loss (the experiment's sign)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Choice, Float
from trainables.losses import APPLY_AT, FREQUENCIES


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"tau": τ}, and `apply_at` (train if absent) and `frequency` on request."""
    return {"name": "balanced_softmax", "params": {"apply_at": "train", **point}}


FAMILY = Family(
    name="balanced_softmax",
    space={"tau": Float(0.0, 3.0, symbol="τ", help="strength of the logit adjustment")},
    optional={
        "apply_at": Choice(APPLY_AT, help="where the logits are adjusted"),
        "frequency": Choice(FREQUENCIES, help="raw counts, or counts as if all classes were annotated alike"),
    },
    presets={
        "balanced_softmax_tau_0.5": {"tau": 0.5},
        "balanced_softmax_tau_1.0": {"tau": 1.0},
        "balanced_softmax_tau_2.0": {"tau": 2.0},
    },
    loss=loss,
    cite="Ren et al. 2020, arXiv:2007.10740; Menon et al. 2021, arXiv:2007.07314",
    help="logits shifted by log counts",
)
