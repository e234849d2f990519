"""Estimates: predicted, never measured; nearer where something was measured; and refused where nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hwsparse.codegen import kernels_for
from hwsparse.errors import MeasureError, UnsupportedError
from hwsparse.latency import CostModel, Workload
from hwsparse.latency.core_model import DEPTHWISE, PRODUCT, WINOGRAD
from hwsparse.latency.estimator import Estimator, counts_of
from hwsparse.latency.learned import Known
from hwsparse.latency.reference_networks import convolution
from hwsparse.pipeline.thrift import describe
from hwsparse.plan import Choice, Layer, parse_choice
from hwsparse.target import load_target
from tests.latency.examples import matmul, measurement

TARGET = load_target("arm-cortex-a76")
LAYER = convolution(128, (28, 28), 256, (1, 1))
DENSE, SPARSE = Choice(), parse_choice("block4x1@0.75")


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator.of(TARGET, describe(TARGET))


def seconds(estimator: Estimator, layer: Layer, text: str) -> float:
    guess = estimator.guess(layer.signature, parse_choice(text), ())
    assert guess is not None
    return guess.seconds


def test_no_layer_is_faster_than_its_core(estimator: Estimator) -> None:
    floats = TARGET.peak_flops / 2
    for layer in (LAYER, convolution(128, (28, 28), 128, (3, 3), depthwise=True), matmul(outputs=512, inputs=512)):
        assert seconds(estimator, layer, "dense") > layer.macs / floats
    # Winograd's method takes a quarter of the multiply-adds.
    assert seconds(estimator, convolution(64, (56, 56), 64, (3, 3)), "dense") > 64 * 64 * 9 * 56 * 56 / 4 / floats


def test_zeros_save_time_and_more_so_where_rows_share_them(estimator: Estimator) -> None:
    dense, half, most = (seconds(estimator, LAYER, text) for text in ("dense", "block4x1@0.5", "block4x1@0.9"))
    assert dense > half > most
    assert seconds(estimator, LAYER, "unstructured@0.9") > most
    assert seconds(estimator, LAYER, "dense/int8") < dense


def test_what_kernels_do_is_counted_alike_on_all_threads() -> None:
    for layer, kind in (
        (LAYER, PRODUCT),
        (convolution(64, (56, 56), 64, (3, 3)), WINOGRAD),
        (convolution(64, (56, 56), 64, (3, 3), depthwise=True), DEPTHWISE),
        (matmul(outputs=512, inputs=256), PRODUCT),
    ):
        found = []
        for threads in (1, 4):
            target = TARGET.with_threads(threads)
            work = describe(target)(layer.signature, DENSE, kernels_for(layer, DENSE, target)[0])
            assert work is not None
            found.append(counts_of(work, threads))
        assert {each.kind for each in found} == {kind}
        # The busiest of four threads has at most some tiles more than a quarter.
        assert found[0].multiply_adds <= found[1].multiply_adds * (1 + 1e-9) <= 1.5 * found[0].multiply_adds
    work = describe(TARGET)(LAYER.signature, DENSE, None)
    assert work is not None
    single = counts_of(work, TARGET.threads)
    assert single.multiply_adds >= LAYER.macs / 4
    assert single.bytes >= 4 * (128 + 256) * 28 * 28 + 4 * 128 * 256


def test_a_model_of_estimates_says_that_all_is_predicted(estimator: Estimator) -> None:
    costs = CostModel.unmeasured(TARGET, estimator)
    for choice in (DENSE, SPARSE):
        told = costs.predict(Workload.of(LAYER, choice, TARGET))
        assert told.source == "predicted" and told.in_domain
        assert told.interval_s[0] < told.latency_s < told.interval_s[1]
        width = estimator.widths.dense if choice.is_dense else estimator.widths.sparse
        assert math.log(told.interval_s[1] / told.latency_s) == pytest.approx(width)
    with pytest.raises(MeasureError, match="calibrate for that target"):
        costs.predict(Workload.of(LAYER, DENSE, TARGET.with_threads(1)))


def test_what_was_measured_takes_the_place_of_estimates(estimator: Estimator) -> None:
    estimated = {choice: seconds(estimator, LAYER, str(choice)) for choice in (DENSE, SPARSE)}
    workload = Workload.of(LAYER, DENSE, TARGET)
    kernel = kernels_for(LAYER, DENSE, TARGET)[0]
    taken = measurement(workload, 3 * estimated[DENSE], kernel=kernel)
    costs = CostModel.fit({workload: taken}, estimator)
    assert costs.predict(workload).source == "measured"
    assert costs.predict(workload).latency_s == pytest.approx(3 * estimated[DENSE])
    # Where the device is three times as slow as thought, it is for the layer's other choices too.
    other = costs.predict(Workload.of(LAYER, SPARSE, TARGET))
    assert other.source == "predicted" and other.latency_s == pytest.approx(3 * estimated[SPARSE])
    assert math.log(other.interval_s[1] / other.latency_s) == pytest.approx(estimator.widths.gain)


def test_a_gain_is_surer_than_the_times_it_is_of(estimator: Estimator) -> None:
    gain, (low, high) = estimator.gain(LAYER.signature, SPARSE)
    assert gain == pytest.approx(seconds(estimator, LAYER, "dense") / seconds(estimator, LAYER, str(SPARSE)))
    assert low < gain < high and math.log(high / gain) == pytest.approx(estimator.widths.gain)
    depthwise = convolution(64, (14, 14), 64, (3, 3), depthwise=True)
    with pytest.raises(MeasureError, match="no kernel serves it"):
        estimator.gain(depthwise.signature, SPARSE)
    assert estimator.guess(depthwise.signature, SPARSE, ()) is None


def test_what_nothing_was_published_of_is_out_of_the_domain(estimator: Estimator) -> None:
    def known(of: Estimator, text: str) -> bool:
        guess = of.guess(LAYER.signature, parse_choice(text), ())
        assert guess is not None
        return guess.in_domain

    assert (
        known(estimator, "dense/int8") and known(estimator, "dense/float16") and not known(estimator, "dense/bfloat16")
    )
    assert TARGET.core is not None
    without = replace(TARGET, core=replace(TARGET.core, int8_rate=1.0, float16_rate=1.0))
    for text in ("dense/int8", "dense/float16"):
        assert not known(Estimator.of(without, describe(without)), text)


def test_float16_is_multiplied_as_fast_as_the_core_does(estimator: Estimator) -> None:
    half, plain = (estimator.gain(LAYER.signature, parse_choice(f"block4x1@0.5{of}"))[0] for of in ("/float16", ""))
    assert 1.4 < half / plain < 2
    work = estimator.describe(LAYER.signature, parse_choice("dense/float16"), None)
    assert work is not None
    added = work.parts["sums of runs"]
    twice, once = (counts_of(work, 1, rate).multiply_adds for rate in (2.0, 1.0))
    assert twice == work.parts["multiply-adds"] + 4 * added and once == twice + work.parts["multiply-adds"]


def test_nothing_is_estimated_of_a_device_whose_core_is_not_described() -> None:
    for target in (replace(TARGET, core=None), load_target("x86-avx2"), load_target("ampere-a100")):
        with pytest.raises(UnsupportedError, match=r"nothing can be estimated without a \[core\]"):
            Estimator.of(target, lambda *_: None)


def test_all_that_was_not_measured_is_worth_measuring(estimator: Estimator) -> None:
    assert estimator.wanted(LAYER.signature, [DENSE, SPARSE], [Known(DENSE, 1.0, None)], 0.1) == [SPARSE]
    assert not estimator.imported and "published times" in estimator.basis
