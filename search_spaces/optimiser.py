"""optimiser: learning rate, weight decay, warm-up and batch size of AdamW with OneCycle, under uniform class weights.

The baseline is the published setting. Every trial sees as many validation patches whatever its batch size, but a
larger batch trains on more patches in as many steps, and takes longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._family import Family
from search_spaces._parameters import Choice, Float

PUBLISHED_SETTING = {"lr": 1e-4, "weight_decay": 1e-4, "pct_start": 0.05, "batch_size": 24}


def settings(point: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The point is the section `trainer`."""
    return {"trainer": dict(point)}


FAMILY = Family(
    name="optimiser",
    space={
        "lr": Float(1e-5, 1e-2, log=True, symbol="η", help="peak learning rate"),
        "weight_decay": Float(1e-6, 1e-1, log=True, symbol="λ", help="weight decay of AdamW"),
        "pct_start": Float(0.02, 0.5, help="share of the steps in which the learning rate rises"),
        "batch_size": Choice((8, 16, 24, 32), help="patches per step"),
    },
    presets={
        "optimiser_published": PUBLISHED_SETTING,
        "optimiser_lr_1e-3": PUBLISHED_SETTING | {"lr": 1e-3},
        "optimiser_decay_1e-2": PUBLISHED_SETTING | {"weight_decay": 1e-2},
        "optimiser_warmup_0.3": PUBLISHED_SETTING | {"pct_start": 0.3},
    },
    settings=settings,
    baseline="optimiser_published",
    cite="AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101; OneCycle: Smith and Topin 2019, arXiv:1708.07120",
    help="learning rate, weight decay, warm-up and batch size",
)
