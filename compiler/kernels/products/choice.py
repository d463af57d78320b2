"""Which cut a product has: the one that was measured, or else the cheapest in the kind of registers that is faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucketmod.compiler.kernels.products.plan import Plan, plan, plan_cycles, priced_plans
from bucketmod.compiler.kernels.products.tile_plan import TilePlan, priced_tile_plans, tile_cycles, tile_plan

if TYPE_CHECKING:
    from bucketmod.compiler.kernels.products.gemm import Gemm
    from bucketmod.compiler.target import CpuFeatures

# Cuts that are worth a measurement: so many, of a cost within this factor of the least. Models are wrong by as much.
_MOST_NEAR, _NEAR = 8, 1.25


def chosen_cut(gemm: Gemm, cpu: CpuFeatures) -> Plan | TilePlan:
    """How the product is cut: as measured, or as the models of cost say."""
    if gemm.cut is not None:
        return gemm.cut
    if cpu.tiles and not gemm.panel and tile_cycles(gemm, cpu) < plan_cycles(gemm, cpu):
        found = tile_plan(gemm, cpu)
        assert found is not None
        return found
    return plan(gemm, cpu)


def takes_tiles(gemm: Gemm, cpu: CpuFeatures) -> bool:
    """Whether tile registers are the faster ones for this product."""
    return isinstance(chosen_cut(gemm, cpu), TilePlan)


def near_cuts(gemm: Gemm, cpu: CpuFeatures) -> list[Plan | TilePlan]:
    """Cuts that cost little more than the cheapest one, which comes first; one of each kind."""
    priced: list[tuple[float, Plan | TilePlan]] = [*priced_plans(gemm, cpu)]
    if cpu.tiles and not gemm.panel:
        priced += priced_tile_plans(gemm, cpu)
    priced.sort(key=lambda pair: pair[0])
    best: dict[object, Plan | TilePlan] = {}
    for cost, cut in priced:
        if cost <= _NEAR * priced[0][0]:
            best.setdefault((type(cut), cut.kind), cut)
    return list(best.values())[:_MOST_NEAR]
