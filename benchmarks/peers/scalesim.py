"""SCALE-Sim's cycles for matrix products on a systolic array that keeps outputs in place.

Reads a JSON object from standard input, `rows` and `columns` of the array and `products` as [positions, outputs,
inputs]; prints the list of their cycles. Imports only the standard library, numpy and scalesim (PyPI: scalesim; A.
Samajdar et al., "A Systematic Methodology for Characterizing Scalability of DNN Accelerators using SCALE-Sim", ISPASS
2020).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def product_cycles(rows: int, columns: int, positions: int, outputs: int, inputs: int) -> int:
    """Cycles of the array alone, as its demand for outputs tells them: memory is never late."""
    from scalesim.compute.systolic_compute_os import systolic_compute_os
    from scalesim.scale_config import scale_config

    config: Any = scale_config()
    config.set_arr_dims(rows, columns)
    config.force_valid()
    array: Any = systolic_compute_os()
    array.set_params(
        config_obj=config,
        ifmap_op_mat=np.zeros((positions, inputs), np.int8),
        filter_op_mat=np.zeros((inputs, outputs), np.int8),
        ofmap_op_mat=np.zeros((positions, outputs), np.int8),
    )
    array.create_ofmap_demand_mat()
    return int(array.ofmap_demand_matrix.shape[0])


def main() -> None:
    """Answers one question."""
    asked = json.load(sys.stdin)
    print(json.dumps([product_cycles(asked["rows"], asked["columns"], *each) for each in asked["products"]]))


if __name__ == "__main__":
    main()
