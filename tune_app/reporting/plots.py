"""The look of all plots: white, quiet, and in colours that colour-blind readers can tell apart.

A colour is never alone: families also differ by the dash of a line and the symbol of a point, configurations by the
hatching of a bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_app.results.pictures import TOL_MUTED

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D00", "#F0E442")
"""Okabe & Ito, jfly.uni-koeln.de/color, black left for what stands out; a brown before the yellow, faint on white."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "pentagon", "hexagon")
HATCHES = ("", "/", ".", "x", "-", "\\", "|", "+")
BEST, BASELINE, INK, QUIET, GRID = "#000000", "#6A3D9A", "#1b1f24", "#8b949e", "#e6e9ed"
NEUTRAL = "#57606a"
"""What is neither of a family nor of a class."""
OUTLINE = {"color": INK, "width": 0.6}
"""Of bars and points: pale colours need an edge."""
SEQUENTIAL = "Cividis"
"""Runs from dark blue to yellow; the same to all eyes (Nuñez et al. 2018)."""
FONT = {"family": 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', "size": 13, "color": INK}
AXIS = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": "#8b949e",
    "showline": True,
    "ticks": "outside",
    "automargin": True,
    "title": {"standoff": 10, "font": {"size": 13}},
}
LOOK = go.layout.Template(
    layout={
        "font": FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 64, "r": 24, "t": 24, "b": 64},
        "hoverlabel": {"font": {"size": 12}, "namelength": -1},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)
"""Of every figure: a template is set in a tenth of the time that its entries take one by one."""


def figure(traces: Iterable[Any] = (), *, height: int = 400, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """An empty figure in our look, with the titles of its axes."""
    titles = {f"{axis}axis_title_text": title for axis, title in (("x", x), ("y", y)) if title}
    return go.Figure(list(traces), layout={"template": LOOK, "height": height, **titles, **layout})


def with_intervals(
    rows: pd.DataFrame,
    names: Sequence[str] | pd.Series,
    value: str,
    low: str,
    high: str,
    *,
    digits: str = ".4f",
    **marks: Any,
) -> go.Scatter:
    """A point and its interval per row, one name above the other; the columns of `rows` that hold them."""
    error = {"type": "data", "symmetric": False, "thickness": 2, "width": 5, "color": QUIET}
    return go.Scatter(
        x=rows[value],
        y=names,
        mode="markers",
        error_x=error | {"array": rows[high] - rows[value], "arrayminus": rows[value] - rows[low]},
        hovertemplate=f"%{{y}}<br>%{{x:{digits}}}<extra></extra>",
        **marks,
    )


def differences(
    rows: pd.DataFrame, names: Sequence[str] | pd.Series, columns: Sequence[str], shade: str, x: str
) -> go.Figure:
    """Differences with their intervals, the first row on top, and where there is none. columns: value, low, high."""
    marker = {"size": 11, "color": shade, "symbol": "diamond"}
    points = with_intervals(rows[::-1], names[::-1], *columns, digits="+.4f", marker=marker)
    drawn = listed_upwards([points], height=120 + 34 * len(rows), x=x)
    drawn.add_vline(x=0, line={"color": INK, "width": 1.2, "dash": "dot"})
    return drawn


def listed_upwards(traces: Iterable[Any], *, height: int, x: str) -> go.Figure:
    """A figure whose rows are names."""
    drawn = figure(traces, height=height, x=x)
    drawn.update_yaxes(type="category", showgrid=False)
    return drawn


def baseline_line(drawn: go.Figure, y: float, name: str) -> None:
    """The baseline's score over the whole width."""
    drawn.add_hline(
        y=y, line={"color": BASELINE, "width": 2, "dash": "dash"}, annotation_text=name, annotation_font_color=BASELINE
    )


def styled(drawn: go.Figure) -> go.Figure:
    """A figure that Optuna or plotly has laid out, in our look. The picture has a heading: no title inside."""
    return drawn.update_layout(template=LOOK, title=None)


def color(index: int) -> str:
    """Of a family, by its place among the families."""
    return OKABE_ITO[index % len(OKABE_ITO)]


def class_color(index: int) -> str:
    """Of a class, by its place among the classes."""
    return TOL_MUTED[index % len(TOL_MUTED)]


def greys(number: int) -> list[str]:
    """Shades in an order, from light to dark, of things that are neither families nor classes."""
    return [
        f"rgb({level}, {level}, {level})" for level in (int(215 - 150 * i / max(1, number - 1)) for i in range(number))
    ]


def dash(index: int) -> str:
    return DASHES[index % len(DASHES)]


def symbol(index: int) -> str:
    return SYMBOLS[index % len(SYMBOLS)]


def hatching(index: int) -> dict[str, Any]:
    """The pattern of a bar over its colour; none for the first."""
    shape = HATCHES[index % len(HATCHES)]
    return {"shape": shape, "fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.75, "solidity": 0.25, "size": 7}


def joined(curves: Iterable[tuple[Sequence[float], Sequence[float], str]]) -> dict[str, list[Any]]:
    """x, y and text of many named curves as one trace, with a gap after each: hundreds of traces are slow to draw."""
    xs: list[Any] = []
    ys: list[Any] = []
    names: list[str] = []
    for x, y, name in curves:
        xs += [*x, None]
        ys += [*y, None]
        names += [name] * (len(x) + 1)
    return {"x": xs, "y": ys, "text": names}


def upright_line(drawn: go.Figure, x: float, name: str, **where: Any) -> None:
    """A dotted line over the whole height with its name on top."""
    drawn.add_vline(
        x=x,
        line={"color": QUIET, "width": 1, "dash": "dot"},
        annotation_text=name,
        annotation_font_size=11,
        annotation_font_color="#57606a",
        **where,
    )
