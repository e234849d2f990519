"""Settings that make no sense are refused where they are made."""

from __future__ import annotations

import pytest

from hwsparse.errors import InputError
from hwsparse.tuning import TuningSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", 11.0),
        ("momentum", 1.5),
        ("distillation", -0.1),
        ("weight_decay", float("nan")),
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("hints", -1.0),
        ("hints", float("inf")),
        ("averaging", 1.0),
        ("averaging", -0.1),
        ("ramp", 0.0),
        ("ramp", 1.5),
        ("seed", -1),
        ("optimizer", "lbfgs"),
        ("augment", "mixup"),
    ],
)
def test_out_of_range(field: str, value: float | str) -> None:
    with pytest.raises(InputError, match=field.replace("_", " ")):
        TuningSettings(**{field: value})  # type: ignore[arg-type]


def test_mixed_images_have_no_labels_to_learn_from() -> None:
    assert TuningSettings(augment="crop-flip-mix").distillation == 1
    with pytest.raises(InputError, match="no labels"):
        TuningSettings(augment="crop-flip-mix", distillation=0.5)
