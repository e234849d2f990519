"""The accelerator's array as a hardware description in Amaranth, and layers run on it by Amaranth's simulator.

Rows with their decoders, the arbiters of the banks and the distributor are described; memory, the vector unit and who
starts passes are not. Needs Amaranth: `pip install 'hwsparse[rtl]'`. Knows no times: the cycles that it takes are
counted.
"""

from __future__ import annotations

from hwsparse.accelerator.rtl.array import ElementArray, element_array, rtlil_text
from hwsparse.accelerator.rtl.simulate import HardwareRun, run_layers

__all__ = ["ElementArray", "HardwareRun", "element_array", "rtlil_text", "run_layers"]
