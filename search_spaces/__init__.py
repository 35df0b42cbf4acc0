"""What can be tuned: one file per loss family; the file name is the name on the command line."""

from search_spaces._counts import ClassCounts
from search_spaces._family import (
    PUBLISHED,
    Family,
    LossConfig,
    Point,
    Preset,
    all_families_space,
    all_presets,
    effective_signature,
    families,
    get_family,
    get_preset,
    loss_of,
    parameters_of,
    preset_loss,
    space_of,
)
from search_spaces._parameters import Choice, Float, Parameter, Space, flatten, narrow

__all__ = [
    "PUBLISHED",
    "Choice",
    "ClassCounts",
    "Family",
    "Float",
    "LossConfig",
    "Parameter",
    "Point",
    "Preset",
    "Space",
    "all_families_space",
    "all_presets",
    "effective_signature",
    "families",
    "flatten",
    "get_family",
    "get_preset",
    "loss_of",
    "narrow",
    "parameters_of",
    "preset_loss",
    "space_of",
]
