"""Pruning: masks from scores, statistics of layer inputs, pruned weights, and what they are worth."""

from hwsparse.sparsify.apply import Pruner, apply_plan, pruned_proto
from hwsparse.sparsify.magnitude import magnitude
from hwsparse.sparsify.mask import achieved_ratio, applicable, make_mask
from hwsparse.sparsify.quality import Evaluator, QualityReport
from hwsparse.sparsify.reconstruct import reconstruct
from hwsparse.sparsify.statistics import LayerStatistics, collect_statistics, output_error
from hwsparse.sparsify.wanda import wanda

__all__ = [
    "Evaluator",
    "LayerStatistics",
    "Pruner",
    "QualityReport",
    "achieved_ratio",
    "applicable",
    "apply_plan",
    "collect_statistics",
    "magnitude",
    "make_mask",
    "output_error",
    "pruned_proto",
    "reconstruct",
    "wanda",
]
