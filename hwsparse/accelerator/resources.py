"""What an int8 array takes of an FPGA of AMD's 7 series: estimated by formulas, held to a synthesis of it.

    DSP      rows x ceil(positions / 2): two products of a weight in one multiplier (WP486; see `rtl.row`)
    BRAM     of every memory the blocks of 36 Kb that its depth and width need, by the shapes that a block has (AMD
             UG473, 7 Series FPGAs Memory Resources): rows' words, the banks of all copies of inputs, the output
             buffer
    LUT      an element's adder 33, and 32 for each 32 places of its accumulators, of which there are twice a power of
             two; a row's control and decoder 155; an arbiter 2 x rows x banks x address bits; selecting one of b
             inputs b / 4 a bit (a LUT is a selector of four: AMD UG474, 7 Series FPGAs Configurable Logic Block), for
             each row among banks, for sums among rows; the distributor 11 a row

The figures of elements, rows, arbiters and distributor are Yosys 0.70's (`synth_xilinx -family xc7`) for single parts
of the description in `rtl`; arbiters came out at 0.6 to 1.03 of theirs. For the array of `fpga-edge` with a distributor
of one word a cycle it counted 128 DSP, 120 blocks of RAM and 30,158 LUTs (8,224 of them memory), where these formulas
say 128, 130 and 27,744. Not in them (but for the output buffer's blocks): the vector unit, the drain, the sequencer, a
distributor of a word for every row, who unpacks what memory brings, and what routing and timing ask for. Knows no part
but those of PARTS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hwsparse.accelerator.machine import Accelerator
from hwsparse.errors import UnsupportedError

# Depths and widths of a block of 36 Kb with one port to write and one to read.
_SHAPES = ((512, 72), (1024, 36), (2048, 18), (4096, 9), (8192, 4), (16384, 2), (32768, 1))
_SUM_BITS = 32


@dataclass(frozen=True, slots=True)
class Resources:
    """DSP slices, blocks of 36 Kb of RAM, LUTs of six inputs."""

    dsp: int
    bram36: int
    luts: int

    def fit(self, part: Resources) -> bool:
        """Whether a part has as much of everything."""
        return self.dsp <= part.dsp and self.bram36 <= part.bram36 and self.luts <= part.luts


# What parts have. XC7Z020: AMD DS190, Zynq-7000 SoC Data Sheet: Overview.
PARTS: Mapping[str, Resources] = MappingProxyType({"XC7Z020": Resources(220, 140, 53_200)})


def estimate_resources(accelerator: Accelerator) -> Resources:
    """By the formulas of the module's header.

    Raises:
        UnsupportedError: an array of floats, whose arithmetic has no description to count.
    """
    if accelerator.dtype != "int8":
        raise UnsupportedError(f"resources are known of int8 arrays only, not of {accelerator.dtype}")
    return Resources(
        accelerator.rows * -(-accelerator.tile_positions // 2), _blocks(accelerator), round(_luts(accelerator))
    )


def block_count(depth: int, width: int) -> int:
    """Blocks of 36 Kb of one memory, all of one shape."""
    return min(-(-depth // deep) * -(-width // wide) for deep, wide in _SHAPES)


def _blocks(accelerator: Accelerator) -> int:
    banks = accelerator.input_banks
    words = accelerator.rows * block_count(2 * accelerator.row_words, accelerator.word_bits)
    depth = -(-accelerator.chunk_inputs // banks)
    inputs = accelerator.input_copies * banks * block_count(2 * depth, 8 * accelerator.tile_positions)
    lanes = min(accelerator.vector_lanes, accelerator.outputs_bytes)
    return words + inputs + block_count(-(-accelerator.outputs_bytes // lanes), 8 * lanes)


def _luts(accelerator: Accelerator) -> float:
    rows, tile, banks = accelerator.rows, accelerator.tile_positions, accelerator.input_banks
    places = 2 << max((accelerator.accumulators - 1).bit_length(), 1)
    elements = rows * tile * (33 + _SUM_BITS * -(-places // 32))
    address_bits = accelerator.chunk_inputs.bit_length() - (banks - 1).bit_length()
    arbiters = 2 * rows * banks * address_bits  # of all copies together
    selection = rows * 8 * tile * banks / 4 + _SUM_BITS * tile * rows / 4
    return elements + rows * (155 + 11) + arbiters + selection
