"""Every pruner by name."""

from __future__ import annotations

from hwsparse.sparsify.alps import alps
from hwsparse.sparsify.apply import Pruner
from hwsparse.sparsify.magnitude import magnitude
from hwsparse.sparsify.regroup import regroup
from hwsparse.sparsify.sparsegpt import sparsegpt
from hwsparse.sparsify.wanda import wanda

# Raised when a pruner's weights change, or what they are said to harm: what an older version made is made again.
VERSION = 7
PRUNERS: dict[str, Pruner] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
    "alps": alps,
    "regroup": regroup,
}
