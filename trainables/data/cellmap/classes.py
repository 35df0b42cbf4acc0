"""The class names of CellMap."""

from __future__ import annotations

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
