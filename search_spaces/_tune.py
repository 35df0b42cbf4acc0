"""The axes of a space as domains of Ray Tune; imported only where somebody asks for them, since it imports ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ray import tune

from search_spaces._parameters import LEAST, Choice, Int, Parameter, Simplex, Space


def domains(space: Space) -> dict[str, Any]:
    """See `search_spaces.tune_space`."""
    return {name: _where_chosen(name, axis) if "." in name else _domain(axis) for name, axis in space.items()}


def _domain(axis: Parameter) -> Any:
    if axis.fixed:
        return axis.grid(1)[0]
    if isinstance(axis, Choice):
        return tune.choice(list(axis.options))
    if isinstance(axis, Simplex):
        return tune.sample_from(lambda: axis.of_axes(np.random.uniform(LEAST, 1.0, len(axis.kept))))  # noqa: NPY002
    if isinstance(axis, Int):
        return (tune.lograndint if axis.log else tune.randint)(axis.low, axis.high + 1)
    return (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)


def _where_chosen(name: str, axis: Parameter) -> Any:
    family, domain = name.partition(".")[0], _domain(axis)

    def drawn(config: Any) -> Any:
        # Ray hands over the whole config, and takes reading an attribute that is not drawn yet as "ask again later".
        point = config.point if "point" in config else config
        if point.family != family:
            return None
        return domain.sample() if isinstance(domain, tune.search.sample.Domain) else domain

    function: Callable[[Any], Any] = drawn
    return tune.sample_from(function)
