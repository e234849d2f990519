"""What there is to prune, and how sparse each part is to be.

Knows shapes and digests only: no arrays, no files, no device.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hwsparse.errors import PatternError, PlanError
from hwsparse.pattern import NM, Dense, Pattern, parse_pattern


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution slides: one entry per spatial axis; pads are (begin, end) per axis."""

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One prunable layer of a model.

    `weight_shape` is canonical, outputs first: (out, in / groups, *kernel) for a convolution,
    (out, in) for a matrix product, however the file stores it (`transposed`: as (in, out)).
    `bias` is the constant of its own that is added to the outputs, a number for each.
    """

    name: str
    op: str  # Conv | Gemm | MatMul
    weight: str  # name of the initializer
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    window: Window | None = None  # convolutions only
    transposed: bool = False
    dtype: str = "float32"
    bias: str | None = None  # name of the initializer

    def __post_init__(self) -> None:
        if (self.op == "Conv") != (self.window is not None):
            raise PlanError(f"layer {self.name!r}: a window belongs to convolutions, and only to them")
        if any(size < 1 for size in self.weight_shape + self.input_shape + self.output_shape):
            raise PlanError(f"layer {self.name!r}: every size must be at least 1")

    @property
    def outputs(self) -> int:
        """Output channels: the rows of the weight matrix."""
        return self.weight_shape[0]

    @property
    def inputs(self) -> int:
        """Weights per output channel: the columns of the weight matrix."""
        return math.prod(self.weight_shape[1:])

    @property
    def groups(self) -> int:
        return self.window.groups if self.window else 1

    @property
    def signature(self) -> str:
        """What the layer costs depends on this text and on nothing else of the layer."""
        sizes = f"{_by_x(self.input_shape)} w{_by_x(self.weight_shape)}"
        if self.window is None:
            return f"matmul {sizes} {self.dtype}"
        w = self.window
        pads = "_".join(f"{begin},{end}" for begin, end in w.pads)
        return f"conv {sizes} s{_by_x(w.strides)} p{pads} d{_by_x(w.dilations)} g{w.groups} {self.dtype}"


# More elements than any tensor of ours has, and no longer number than that.
_TOO_MANY, _SIZE = 2**31, r"\d{1,10}"
_SIZES = rf"{_SIZE}(?:x{_SIZE})*"
_PADS = rf"{_SIZE},{_SIZE}"
_MATMUL = re.compile(rf"matmul ({_SIZES}) w({_SIZE}x{_SIZE}) (\w+)")
_CONV = re.compile(rf"conv ({_SIZES}) w({_SIZES}) s({_SIZES}) p({_PADS}(?:_{_PADS})*) d({_SIZES}) g({_SIZE}) (\w+)")


def parse_signature(text: str) -> Layer:
    """A layer, without names, of which `signature` is this text.

    Raises:
        PlanError: it is no signature, or one of no layer that there can be.
    """
    if found := _MATMUL.fullmatch(text):
        inputs, weight = _sizes(found[1]), _sizes(found[2])
        if inputs[-1] != weight[1]:
            raise PlanError(f"{text!r}: products of {inputs[-1]} by {weight[1]}")
        outputs = (*inputs[:-1], weight[0])
        _check_elements(text, inputs, weight, outputs)
        return Layer("", "MatMul", "", weight, inputs, outputs, math.prod(outputs) * weight[1], dtype=found[3])
    found = _CONV.fullmatch(text)
    if not found:
        raise PlanError(f"{text!r} is no layer's signature")
    inputs, weight, strides, dilations = (_sizes(found[at]) for at in (1, 2, 3, 5))
    pads = tuple((int(begin), int(end)) for begin, end in (pair.split(",") for pair in found[4].split("_")))
    axes, groups = len(inputs) - 2, int(found[6])
    if axes < 1 or {len(weight) - 2, len(strides), len(pads), len(dilations)} != {axes} or min(strides) < 1:
        raise PlanError(f"{text!r}: not as many sizes for each axis, or a stride of 0")
    if groups < 1 or inputs[1] != weight[1] * groups or weight[0] % groups:
        raise PlanError(f"{text!r}: {inputs[1]} channels in {groups} groups of {weight[1]}, for {weight[0]} outputs")
    axis = zip(inputs[2:], weight[2:], strides, pads, dilations, strict=True)
    spatial = (
        (size + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, pad, dilation in axis
    )
    outputs = (inputs[0], weight[0], *spatial)
    _check_elements(text, inputs, weight, outputs)
    macs = math.prod(outputs) * math.prod(weight[1:])
    window = Window(strides, pads, dilations, groups)
    return Layer("", "Conv", "", weight, inputs, outputs, macs, window, dtype=found[7])


def _check_elements(text: str, *shapes: tuple[int, ...]) -> None:
    if any(math.prod(shape) >= _TOO_MANY for shape in shapes):
        raise PlanError(f"{text!r}: a tensor of {_TOO_MANY} elements or more")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


@dataclass(frozen=True, slots=True)
class Choice:
    """How sparse a layer is: a pattern and the fraction of its weights that are zero, to six digits."""

    pattern: Pattern = Dense()
    ratio: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and 0 <= self.ratio <= 1):
            raise PatternError(f"ratio {self.ratio} is not between 0 and 1")
        if isinstance(self.pattern, Dense) and self.ratio != 0:
            raise PatternError(f"dense has ratio 0, not {self.ratio}")
        if isinstance(self.pattern, NM) and not math.isclose(self.ratio, self.pattern.ratio, abs_tol=1e-6):
            raise PatternError(f"{self.pattern} has ratio {self.pattern.ratio}, not {self.ratio}")
        # The ratio that the text stands for, so that choices are equal exactly when their texts are.
        exact = self.pattern.ratio if isinstance(self.pattern, NM) else float(f"{self.ratio:g}") + 0.0  # -0 is 0
        object.__setattr__(self, "ratio", exact)

    @property
    def is_dense(self) -> bool:
        return isinstance(self.pattern, Dense)

    @property
    def is_plain(self) -> bool:
        """Whether it is what a layer is where nothing is chosen: dense, in float32."""
        return self == _PLAIN

    def __str__(self) -> str:
        text = str(self.pattern)
        if not isinstance(self.pattern, Dense | NM):
            text += f"@{self.ratio:g}"
        return text if self.dtype == "float32" else f"{text}/{self.dtype}"


_PLAIN = Choice()


def parse_choice(text: str) -> Choice:
    """Reads a choice from its text form, `block4x1@0.9` or `2:4`, as `str(choice)` writes it.

    Raises:
        PatternError: not a choice; N:M and dense carry their own ratio, every other pattern needs one.
    """
    body, _, dtype = text.partition("/")
    name, at, ratio_text = body.partition("@")
    pattern = parse_pattern(name)
    if isinstance(pattern, Dense | NM):
        if at:
            raise PatternError(f"{text!r}: {pattern} carries its own ratio; leave out @{ratio_text}")
        ratio = pattern.ratio if isinstance(pattern, NM) else 0.0
    else:
        try:
            ratio = float(ratio_text)
        except ValueError:
            raise PatternError(f"{text!r}: {pattern} needs a ratio of zeros, as in {pattern}@0.9") from None
    return Choice(pattern, ratio, dtype or "float32")


@dataclass(frozen=True, slots=True)
class Plan:
    """One choice per layer of one model; layers that are not named are dense."""

    model_digest: str
    choices: tuple[tuple[str, Choice], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.choices]
        if names != sorted(set(names)):
            raise PlanError("a plan names each layer once, in sorted order; build it with Plan.of")

    @classmethod
    def of(cls, model_digest: str, choices: Mapping[str, Choice]) -> Plan:
        """A plan from a mapping of layer names; dense choices are left out, so equal plans are equal."""
        kept = ((name, choice) for name, choice in choices.items() if not choice.is_plain)
        return cls(model_digest, tuple(sorted(kept, key=lambda item: item[0])))

    @classmethod
    def uniform(cls, model_digest: str, layers: Iterable[Layer], choice: Choice) -> Plan:
        """The same choice for every layer given."""
        return cls.of(model_digest, {layer.name: choice for layer in layers})

    def choice(self, layer_name: str) -> Choice:
        return dict(self.choices).get(layer_name, _PLAIN)

    @property
    def in_bytes(self) -> frozenset[str]:
        """Names of the layers that are int8."""
        return frozenset(name for name, choice in self.choices if choice.dtype == "int8")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: equal plans give equal text."""
        body = {"model": self.model_digest, "choices": {name: str(choice) for name, choice in self.choices}}
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            PlanError: not a plan.
        """
        try:
            body = json.loads(text, object_pairs_hook=_without_repeats)
            if set(body) != {"model", "choices"} or not isinstance(body["model"], str):
                raise PlanError("a plan has exactly the keys model and choices")
            return cls.of(body["model"], {name: parse_choice(choice) for name, choice in body["choices"].items()})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PlanError(f"not a plan: {error}") from None
        except PatternError as error:
            raise PlanError(f"not a plan: {error}") from None


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _by_x(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))
