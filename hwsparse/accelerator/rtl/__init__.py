"""The accelerator as a hardware description in Amaranth, and layers run on it by Amaranth's simulator.

Rows with their decoders, the arbiters of the banks, the distributor, the drain with the vector unit's time, and the
sequencer are described; memory, who unpacks what it brings, and the vector unit's arithmetic are not. Cycles of passes
are the timing model's exactly; of a whole layer they are within `HardwareRun.bound`, three cycles for each load. Needs
Amaranth: `pip install 'hwsparse[rtl]'`. Knows no times: the cycles that it takes are counted.
"""

from __future__ import annotations

from hwsparse.accelerator.rtl.array import ElementArray, element_array, rtlil_text
from hwsparse.accelerator.rtl.simulate import HardwareRun, run_layers

__all__ = ["ElementArray", "HardwareRun", "element_array", "rtlil_text", "run_layers"]
