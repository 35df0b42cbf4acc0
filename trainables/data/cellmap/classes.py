"""The class names of CellMap and the checks on the ones a person asks for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.data.cellmap.reader import CropSource

VOCABULARY_TEXT = """
actin bm cell cent cent_all cent_dapp cent_sdapp chlor chlor_lum chlor_mem chlor_sg chrom cyto echrom ecs
endo endo_lum endo_mem er er_lum er_mem er_mem_all eres eres_lum eres_mem glyco golgi golgi_lum golgi_mem
hchrom isg isg_ins isg_lum isg_mem ld ld_lum ld_mem lyso lyso_lum lyso_mem mito mito_lum mito_mem mito_ribo
mt mt_in mt_out mvb ne ne_lum ne_mem ne_mem_all nechrom nhchrom np np_in np_out nuc nucleo nucpl perox
perox_lum perox_mem plasmodesmata pm rbc ribo tbar vac vac_lum vac_mem ves ves_lum ves_mem vesicle vim vp
yolk yolk_lum yolk_mem
"""
VOCABULARY = frozenset(VOCABULARY_TEXT.split())
"""Names in use at CellMap, with those that circulate in lists of classes but have no annotation."""


def annotated_names(sources: Iterable[CropSource]) -> set[str]:
    """Every class that at least one of the crops annotates."""
    return set().union(*(source.classes for source in sources))


def unannotated_classes(classes: Sequence[str], sources: Iterable[CropSource]) -> list[str]:
    """Those of `classes` that no crop annotates, in order: their channel would be unknown everywhere."""
    annotated = annotated_names(sources)
    return [name for name in classes if name not in annotated]


def check_classes(classes: Sequence[str], sources: Iterable[CropSource]) -> None:
    """DataError for a name that neither the crops nor CellMap's list of classes know (a misspelling), and when no crop
    annotates any of the classes."""
    annotated = annotated_names(sources)
    for name in classes:
        if name not in annotated and name not in VOCABULARY:
            close = difflib.get_close_matches(name, sorted(annotated | VOCABULARY), n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise DataError(
                f"data.classes: {name} is no class of this data. {hint}"
                f"Annotated here: {', '.join(sorted(annotated)) or 'none'}."
            )
    if not annotated & set(classes):
        raise DataError(
            f"data.classes=[{','.join(classes)}]: no crop annotates any of them, so there is nothing to learn. "
            f"Annotated here: {', '.join(sorted(annotated)) or 'none'}."
        )
