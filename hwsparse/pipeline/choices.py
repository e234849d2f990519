"""What a search went by, layer by layer, as a report shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from hwsparse.latency import CostModel, Workload
from hwsparse.model import Model
from hwsparse.plan import Choice
from hwsparse.report.choices import LayerChoice, LayerChoices
from hwsparse.search import Offer, SearchSpace
from hwsparse.sparsify.layer_database import PrunedLayer
from hwsparse.target import Target


def layer_choices(
    model: Model,
    target: Target,
    offers: Mapping[str, Sequence[Offer]],
    space: SearchSpace,
    pruned: Mapping[tuple[str, Choice], PrunedLayer],
    costs: CostModel,
) -> LayerChoices:
    """Every choice that was looked at, with what it takes and harms, or why it is not in the space."""
    reasons = {(each.layer, each.choice): each.reason for each in space.refused}

    def told() -> Iterator[LayerChoice]:
        for name, offered in offers.items():
            for offer in offered:
                refused = reasons.get((name, offer.choice))
                if offer.refused is not None:
                    yield LayerChoice(name, str(offer.choice), refused=refused)
                    continue
                source = costs.predict(Workload.of(model.layer(name), offer.choice, target)).source
                harm = 0.0 if offer.choice.is_plain else pruned[name, offer.choice].harm.loss
                yield LayerChoice(
                    name, str(offer.choice), offer.latency_s, source, offer.error,
                    harm if math.isfinite(harm) else None, refused,
                )  # fmt: skip

    return LayerChoices(model.name, target.name, tuple(told()))
