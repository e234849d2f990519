"""Published times: the tables read whole, and what is wrong with one is said by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsparse.errors import InputError
from hwsparse.latency import reference
from hwsparse.latency.core_model import DEPTHWISE, ELEMENTWISE, PRODUCT, WINOGRAD
from hwsparse.latency.reference import convolutions, counts_of, family_of, networks, products, read_convolutions
from hwsparse.latency.reference_networks import convolution, network
from hwsparse.target import reference_directory


@pytest.mark.parametrize(
    ("name", "millions", "weights"),
    [  # as the papers round them, MobileNetV2 1.4 as TensorFlow Slim's README has it; ResNet-50 is that of version 1.5
        ("mobilenet-v1@1.0", 569, 4.2e6),
        ("mobilenet-v1@0.75", 325, 2.6e6),
        ("mobilenet-v2@1.0", 300, 3.4e6),
        ("mobilenet-v2@1.4", 582, 6.06e6),
        ("efficientnet-b0@1.0", 390, 5.3e6),
        ("efficientnet-b1@1.0", 700, 7.8e6),
        ("resnet50@1.0", 4089, 25.5e6),
    ],
)
def test_networks_are_as_large_as_their_papers_say(name: str, millions: float, weights: float) -> None:
    layers = network(name)
    assert sum(layer.macs for layer in layers) / 1e6 == pytest.approx(millions, rel=0.03)
    assert sum(layer.outputs * layer.inputs for layer in layers) == pytest.approx(weights, rel=0.04)
    for layer in layers:
        assert layer.weight_shape[1] * layer.groups == layer.input_shape[1]


def test_there_is_no_network_but_those() -> None:
    for name in ("alexnet@1.0", "mobilenet-v1", "mobilenet-v1@wide"):
        with pytest.raises(InputError, match="no network"):
            network(name)


def test_the_tables_have_what_was_published() -> None:
    times = {(each.runtime, each.device, each.name, each.dtype, each.place.threads): each for each in networks()}
    assert len(times) == len(networks())
    sparse = times["fast-sparse-convnets", "snapdragon-835", "mobilenet-v1@1.4", "float32", 1]
    assert (sparse.seconds, sparse.sparsity) == (pytest.approx(0.058), 0.9)
    assert times["paddle-lite", "rk3399", "resnet50@1.0", "float32", 1].seconds == pytest.approx(0.61668)
    assert sum(each.sparsity > 0 for each in networks()) == 11
    assert {each.device for each in convolutions()} == {
        "snapdragon-835", "kirin-970", "rk3399", "bcm2837", "zynq-7020",
    }  # fmt: skip
    assert {each.counts[0].kind for each in convolutions()} == {PRODUCT, DEPTHWISE, WINOGRAD}
    for each in (*convolutions(), *networks()):
        # No core does more than its pipes.
        core, floats = each.place.core, sum(4 * counts.multiply_adds for counts in each.counts)
        assert floats / each.seconds < 4 * core.fma_pipes * core.clock_hz * each.place.threads


def test_products_are_counted_as_layers() -> None:
    times = {(each.runtime, each.name, each.sparsity): each for each in products()}
    assert len(times) == len(products()) == 21
    dense, vector = times["gemmlowp", "3072x1024x1500", 0.0], times["gemmlowp", "3072x1024x1", 0.0]
    assert dense.counts[0].multiply_adds == 3072 * 1024 * 1500 / 4
    assert dense.counts[0].bytes == 3072 * 1024 + 1024 * 1500 + 3072 * 1500
    assert vector.counts[0].loads == 2 * vector.counts[0].multiply_adds
    assert times["eigen", "7680x2560x1500", 0.95].seconds == pytest.approx(15.21207)


def test_what_is_sparse_and_shares_its_zeros() -> None:
    layer = convolution(64, (14, 14), 64, (1, 1))
    dense, sparse, blocks = counts_of(layer), counts_of(layer, 0.75), counts_of(layer, 0.75, 4)
    assert dense.multiply_adds == 64 * 64 * 14 * 14 / 4
    assert sparse.multiply_adds == blocks.multiply_adds == dense.multiply_adds / 4
    assert sparse.loads / sparse.multiply_adds == 1 + 1 / 4
    assert blocks.loads / blocks.multiply_adds == 1 / 4 + 1 / 4
    assert sparse.bytes == 4 * 2 * 64 * 14 * 14 + 64 * 64 / 4 * 8
    by_name = {each.name: each for each in networks() if each.sparsity}
    # Of a MobileNet the first and last layer are dense, of an EfficientNet the first.
    v1, efficient = (by_name[name].counts for name in ("mobilenet-v1@1.0", "efficientnet-b0@1.0"))
    layers = network("mobilenet-v1@1.0")
    assert v1[0] == counts_of(layers[0]) and v1[-1] == counts_of(layers[-1])
    assert v1[-2] == counts_of(layers[-2], 0.9, 4) and v1[-4] == counts_of(layers[-4], 0.9, 1)
    assert efficient[-1].kind == ELEMENTWISE
    assert efficient[-2] == counts_of(network("efficientnet-b0@1.0")[-1], 0.8, 1)
    assert [family_of(by_name[name]) for name in ("mobilenet-v2-cache-aware@1.0", "efficientnet-b1@1.0")] == [
        "mobilenet-v2",
        "efficientnet",
    ]


HEADER = (reference_directory() / "convolutions.csv").read_text().splitlines()[3]
ROW = "spatial_pack,3,8,8,16,3,3,1,1,1,1,2,3,4,5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROW, "its header must be template,"),
        (HEADER + ",more\n" + ROW, "its header must be"),
        (f"{HEADER}\n{ROW},6", "t.csv: spatial_pack,3.*: not as many cells"),
        (f"{HEADER}\n{ROW.replace('spatial', 'temporal')}", "unknown template 'temporal_pack'"),
        (f"{HEADER}\n{ROW.replace(',5', ',fast')}", "zynq-7020 is 'fast', no number"),
        (f"{HEADER}\n{ROW.replace(',5', ',nan')}", "zynq-7020 is 'nan', no number"),
        (f"{HEADER}\n{ROW.replace(',5', ',-5')}", "zynq-7020 is '-5', no number"),
        (f"{HEADER}\n{ROW.replace(',16,', ',16.5,')}", "outputs is '16.5'"),
    ],
)
def test_a_table_that_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=said):
        list(read_convolutions(path))


def test_a_table_in_the_same_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"# where it is from\n{HEADER}\n{ROW}\n")
    assert [each.seconds for each in read_convolutions(path)] == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6, 5e-6])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_convolutions(tmp_path / "missing.csv"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        list(read_convolutions(path))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("r,nobody,1,resnet50@1.0,float32,0,1,5", "no device 'nobody'"),
        ("r,rk3399,1,resnet50@1.0,float64,0,1,5", "allowed: float32"),
        ("r,rk3399,1,resnet50@1.0,float32,1.5,1,5", "sparsity is from 0 to 1"),
        ("r,rk3399,0,resnet50@1.0,float32,0,1,5", "threads are at least 1"),
        ("r,rk3399,1,resnet51@1.0,float32,0,1,5", "no network 'resnet51@1.0'"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, said: str
) -> None:
    shipped = reference_directory()
    header = next(line for line in (shipped / "networks.csv").read_text().splitlines() if line.startswith("runtime"))
    (tmp_path / "networks.csv").write_text(f"{header}\n{row}\n")
    (tmp_path / "devices.toml").write_text((shipped / "devices.toml").read_text())
    monkeypatch.setattr(reference, "reference_directory", lambda: tmp_path)
    with pytest.raises(InputError, match=said):
        networks.__wrapped__()
