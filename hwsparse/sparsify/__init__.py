"""Pruning: masks from scores, statistics of layer inputs, pruned weights, and what they are worth."""

from hwsparse.sparsify.alps import alps
from hwsparse.sparsify.apply import Pruner, apply_plan, pruned_model, pruned_proto
from hwsparse.sparsify.correction import correct
from hwsparse.sparsify.layer_database import LayerDatabase, PrunedLayer
from hwsparse.sparsify.magnitude import magnitude
from hwsparse.sparsify.mask import achieved_ratio, applicable, make_mask
from hwsparse.sparsify.narrow import Narrower, narrowed_shape
from hwsparse.sparsify.pruners import PRUNERS
from hwsparse.sparsify.quality import Evaluator, QualityReport, Robustness
from hwsparse.sparsify.regroup import regroup
from hwsparse.sparsify.size import Size, Sizes
from hwsparse.sparsify.sparsegpt import sparsegpt
from hwsparse.sparsify.statistics import LayerStatistics, collect_statistics, output_error
from hwsparse.sparsify.wanda import wanda

__all__ = [
    "PRUNERS",
    "Evaluator",
    "LayerDatabase",
    "LayerStatistics",
    "Narrower",
    "PrunedLayer",
    "Pruner",
    "QualityReport",
    "Robustness",
    "Size",
    "Sizes",
    "achieved_ratio",
    "alps",
    "applicable",
    "apply_plan",
    "collect_statistics",
    "correct",
    "magnitude",
    "make_mask",
    "narrowed_shape",
    "output_error",
    "pruned_model",
    "pruned_proto",
    "regroup",
    "sparsegpt",
    "wanda",
]
