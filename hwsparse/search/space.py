"""What a search may choose: for each prunable layer, dense and the options that pay on the device.

An option is left out, with the reason kept, when the caller refuses it (no kernel on the target, no mask
for the layer's shape), when it is not faster than the dense layer beyond the noise of both timings, or
when another option of the layer is at least as fast and at least as accurate. Options that uniform plans
are to be made of are spared the last rule: uniform sparsity is a baseline, and is to be what its name says.

No layer's choice binds another's: a layer with the `channel` pattern leaves channels uncomputed, and hands on as many
as before. Channels that go through residuals together are `sparsify.narrow`'s, which removes them from all it couples.

Built from plain figures: knows no device, no weights, no Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from hwsparse.errors import PlanError, StudyError
from hwsparse.plan import Choice, Plan, parse_choice
from hwsparse.search.candidate import Kind


@dataclass(frozen=True, slots=True)
class Offer:
    """What is known of one choice for one layer before the space is drawn up.

    `error` is the layer's relative output error on calibration data, 0 for dense. `refused` says why the
    choice is not to be had; the figures then mean nothing.
    """

    choice: Choice
    latency_s: float = math.nan  # of the layer alone
    interval_s: tuple[float, float] = (math.nan, math.nan)  # 95 %
    error: float = math.nan
    refused: str | None = None

    def __post_init__(self) -> None:
        figures = (self.latency_s, *self.interval_s, self.error)
        if self.refused is None and not all(math.isfinite(figure) and figure >= 0 for figure in figures):
            raise StudyError(f"{self.choice}: an offer needs finite figures, or the reason why it is refused")


@dataclass(frozen=True, slots=True)
class Option:
    """One choice that a layer has, with the layer's latency in seconds and its relative output error."""

    choice: Choice
    latency_s: float
    error: float


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """The options of one layer, dense first, the others from the slowest to the fastest."""

    layer: str
    options: tuple[Option, ...]
    texts: tuple[str, ...] = field(init=False, repr=False, compare=False)  # every option's choice as text

    def __post_init__(self) -> None:
        if not self.options or not self.options[0].choice.is_plain:
            raise StudyError(f"layer {self.layer!r}: the first option must be dense")
        object.__setattr__(self, "texts", tuple(str(option.choice) for option in self.options))
        if len(set(self.texts)) != len(self.options):
            raise StudyError(f"layer {self.layer!r}: an option is there twice")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A choice that a layer does not have, and why not."""

    layer: str
    choice: Choice
    reason: str


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Every plan that a search may propose for one model on one device; layers in the model's order."""

    model_digest: str
    layers: tuple[LayerOptions, ...]
    uniform: tuple[Choice, ...] = ()  # what uniform plans are made of
    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        if len({layer.layer for layer in self.layers}) != len(self.layers):
            raise StudyError("the search space has a layer twice")

    @property
    def free(self) -> tuple[LayerOptions, ...]:
        """The layers with something to choose; every other layer stays dense."""
        return tuple(layer for layer in self.layers if len(layer.options) > 1)

    def plan(self, texts: Mapping[str, str]) -> Plan:
        """The plan that gives each layer the option of that text; layers not named stay dense.

        Raises:
            PlanError: no such layer or option.
        """
        options = {layer.layer: dict(zip(layer.texts, layer.options, strict=True)) for layer in self.layers}
        try:
            return Plan.of(self.model_digest, {name: options[name][text].choice for name, text in texts.items()})
        except KeyError as error:
            raise PlanError(f"the search space has no {error}") from None

    def uniformly(self, choice: Choice) -> Plan:
        """The plan that gives a choice to every layer that has it."""
        text = str(choice)
        return self.plan({layer.layer: text for layer in self.layers if text in layer.texts})

    def limited_to(self, choices: SettledChoices) -> SearchSpace:
        """The space without what a study did not begin with; no option that is not here is added."""
        settled = dict(choices.layers)
        layers = tuple(
            LayerOptions(
                layer.layer,
                tuple(
                    option
                    for option, text in zip(layer.options, layer.texts, strict=True)
                    if text == "dense" or text in settled.get(layer.layer, ())
                ),
            )
            for layer in self.layers
        )
        return replace(self, layers=layers)

    def allows(self, plan: Plan) -> bool:
        """Whether every choice of the plan can be made."""
        texts = {layer.layer: layer.texts for layer in self.layers}
        return plan.model_digest == self.model_digest and all(
            str(choice) in texts.get(name, ()) for name, choice in plan.choices
        )


@dataclass(frozen=True, slots=True)
class SettledChoices:
    """What a study chooses from, from its first trial to its last: by layer, the texts of its choices, sorted.

    Timings are taken anew from time to time, and what pays then may be something else: a study that has
    begun keeps its choices all the same. Layers that are not named stay dense.

    Raises:
        StudyError, PatternError: a layer is there twice, or its choices are not dense and others, sorted.
    """

    layers: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        if len({name for name, _ in self.layers}) != len(self.layers):
            raise StudyError("a layer is there twice")
        for name, texts in self.layers:
            canonical = sorted({str(parse_choice(text)) for text in texts})
            if list(texts) != canonical or "dense" not in texts or len(texts) < 2:
                raise StudyError(f"layer {name!r}: {', '.join(texts)} are no choices")

    @classmethod
    def of(cls, space: SearchSpace) -> SettledChoices:
        """Everything that may be chosen in the space."""
        return cls(tuple((layer.layer, tuple(sorted(layer.texts))) for layer in space.free))

    def sparse(self, layer: str) -> tuple[Choice, ...]:
        """What the layer may be besides dense."""
        return tuple(parse_choice(text) for text in dict(self.layers).get(layer, ()) if text != "dense")

    def texts(self, plan: Plan) -> dict[str, str]:
        """The text of every layer's choice in `plan`."""
        chosen = dict(plan.choices)
        return {name: str(chosen[name]) if name in chosen else "dense" for name, _ in self.layers}


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a study keeps from its beginning on: what it chooses from, and the plans that it tries first.

    `seeds` are the kind of each plan and its texts by layer, in the order of the choices' layers.

    Raises:
        StudyError: a seed is of no kind, or has not one of each layer's choices.
    """

    choices: SettledChoices
    seeds: tuple[tuple[Kind, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        layers = self.choices.layers
        for kind, texts in self.seeds:
            fits = len(texts) == len(layers) and all(
                text in among for text, (_, among) in zip(texts, layers, strict=True)
            )
            if kind not in get_args(Kind) or not fits:
                raise StudyError(f"{kind}: {', '.join(texts)} is no plan to begin with")

    def planned(self) -> Iterator[tuple[Kind, dict[str, str]]]:
        """Each seed's kind, and its texts by layer name."""
        names = [name for name, _ in self.choices.layers]
        return ((kind, dict(zip(names, texts, strict=True))) for kind, texts in self.seeds)


def build_space(
    model_digest: str,
    offers: Mapping[str, Sequence[Offer]],
    *,
    uniform: Iterable[Choice] = (),
    baseline: Choice | None = None,
    settled: bool = False,
) -> SearchSpace:
    """Draws up the space from every offer for every prunable layer.

    Args:
        model_digest: of the model that the plans are for.
        offers: by layer name, in the model's order; each layer has an offer of dense, not refused.
        uniform: choices that uniform plans will be made of; no layer loses one of them to a better option.
        baseline: one of them that layers have whether or not it pays: the others are held to it.
        settled: the offers are those of a study that goes on: whatever can be had today stays, paying or not.

    Raises:
        StudyError: a layer has no dense offer, or a choice twice.
    """
    spared = {str(choice): choice for choice in uniform}
    layers, refused = [], []
    for name, offered in offers.items():
        options, left_out = _layer(name, offered, spared.keys(), baseline, settled)
        layers.append(options)
        refused.extend(left_out)
    return SearchSpace(model_digest, tuple(layers), tuple(spared.values()), tuple(refused))


def _layer(
    name: str, offers: Sequence[Offer], spared: Collection[str], baseline: Choice | None, settled: bool
) -> tuple[LayerOptions, list[Refusal]]:
    dense = next((offer for offer in offers if offer.choice.is_plain and offer.refused is None), None)
    if dense is None:
        raise StudyError(f"layer {name!r}: the time of the dense layer is not known")
    refused = []
    paying = []
    for offer in offers:
        if offer is dense:
            continue
        if reason := offer.refused if settled or offer.choice == baseline else unpaid(offer, dense):
            refused.append(Refusal(name, offer.choice, reason))
        else:
            paying.append(offer)
    paying.sort(key=lambda offer: (-offer.latency_s, offer.error, str(offer.choice)))
    kept = [dense]
    for offer in paying:
        better = next((other for other in paying if _beats(other, offer)), None)
        if better is None or settled or str(offer.choice) in spared:
            kept.append(offer)
        else:
            reason = f"{better.choice} is no slower and no less accurate"
            refused.append(Refusal(name, offer.choice, reason))
    options = tuple(Option(offer.choice, offer.latency_s, offer.error) for offer in kept)
    return LayerOptions(name, options), refused


def unpaid(offer: Offer, dense: Offer) -> str | None:
    """Why an offer is not worth having, whatever it harms; None when it is faster than dense."""
    if offer.refused is not None:
        return offer.refused
    if offer.interval_s[1] >= dense.interval_s[0]:
        took, against = offer.latency_s * 1e3, dense.latency_s * 1e3
        return f"not faster than dense beyond the noise: {took:.4g} ms against {against:.4g} ms"
    return None


def _beats(a: Offer, b: Offer) -> bool:
    if (a.latency_s, a.error) == (b.latency_s, b.error):  # of equals, the one whose text is first stays
        return str(a.choice) < str(b.choice)
    return a.latency_s <= b.latency_s and a.error <= b.error
