"""seesaw: mitigation (median n / n_c)^p times compensation 1 + (FP/(FP + FN))^q, on a per-class Tversky loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Choice, Float
from trainables.losses import FREQUENCIES


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"p": p, "q": q}, and `frequency` on request."""
    return {"name": "seesaw", "params": dict(point)}


FAMILY = Family(
    name="seesaw",
    space={
        "p": Float(0.0, 2.0, symbol="p", help="mitigation exponent"),
        "q": Float(0.0, 4.0, symbol="q", help="compensation exponent"),
    },
    optional={"frequency": Choice(FREQUENCIES, help="raw counts, or counts as if all classes were annotated alike")},
    presets={
        "seesaw_default": {"p": 0.8, "q": 2.0},
        "seesaw_strong_mitigate": {"p": 1.0, "q": 2.0},
        "seesaw_strong_compensate": {"p": 0.8, "q": 3.0},
    },
    loss=loss,
    cite="after Wang et al. 2021, arXiv:2008.10032, which reweights pairs of softmax logits",
    help="mitigate frequent classes, compensate false positives",
)
