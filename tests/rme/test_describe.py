"""The printed layers are those of the real networks, of every method."""

from __future__ import annotations

import itertools
import re

import pytest

from rme import data, describe, methods, nets
from rme.config import RunSpec

SHAPES = {data.get(name).shape: name for name in data.names()}
"""Each distinct shape of images, and a data set of it."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_chain_and_add_up(shape):
    dim = 20
    real = {
        "encoder": nets.Encoder(1, dim, shape),
        "conv decoder": nets.Decoder(1, dim, shape, "conv").mean,
        "fc decoder": nets.Decoder(1, dim, shape, "fc").mean,
    }
    found = dict(describe.tables(shape, dim))
    assert found.keys() == real.keys()
    for title, rows in found.items():
        assert sum(row[3] for row in rows) == sum(p.numel() for p in real[title].parameters())
        assert all(a[2] == b[1] for a, b in itertools.pairwise(rows))
    image = " x ".join(map(str, shape))
    assert found["encoder"][0][1] == image == found["conv decoder"][-1][2]
    assert found["encoder"][-1][2] == str(2 * dim)


@pytest.mark.parametrize("dataset", SHAPES.values())
@pytest.mark.parametrize("name", methods.names())
def test_every_method_s_parameters_are_counted(name, dataset):
    method, shape = methods.get(name), data.get(dataset).shape
    layers = {title: sum(row[3] for row in rows) for title, rows in describe.tables(shape, 10)}
    for order, decoder in itertools.product(method.orders or [None], method.decoders):
        spec = RunSpec(method=name, order=order, dataset=dataset, dim=10, decoder=decoder)
        total, _, parts = describe.parameters(spec, shape).partition(" parameters: ")
        counts = {part: int(count.replace(",", "")) for part, count in re.findall(r"(\w+) (\d[\d,]*\d)", parts)}
        assert int(total.replace(",", "")) == sum(counts.values())
        assert counts["decoder"] == layers[f"{decoder} decoder"] + 1  # and the variance
        if name in ("vae", "sa", "svi", "hf", "iaf"):
            assert counts["encoder"] == layers["encoder"]
        elif name == "me":
            assert counts["components"] == order * layers["encoder"]


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).orders])
def test_an_order_that_is_missing_is_asked_for_with_the_valid_ones(name, capsys):
    assert describe.main(["--method", name]) == 2
    error = capsys.readouterr().err
    assert ", ".join(map(str, methods.get(name).orders)) in error and error.count("\n") == 1


def test_the_command_prints_a_method_s_parts(capsys):
    assert describe.main(["--dataset", "mnist", "--method", "rme", "--order", "2"]) == 0
    printed = capsys.readouterr().out
    # Table 1 by hand: 32 kernels of 4x4 on one channel and their biases; 576 x 256 and its biases
    assert "544" in printed and "147,712" in printed and "RME(2)" in printed
    assert describe.main(["--method", "vlae", "--order", "1"]) == 0  # works with one decoder only, the default then


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dataset", "nothing"], "nothing"),
        (["--method", "gan"], "gan"),
        (["--method", "vae", "--order", "2"], "order=2"),
        (["--order", "2"], "--order 2"),
        (["--decoder", "fc"], "--decoder fc"),
        (["--method", "vlae", "--order", "1", "--decoder", "conv"], "conv"),
        (["--method", "vae", "--decoder", "deep"], "deep"),
        (["--dim", "0"], "dim=0"),
        (["--dataset", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_an_impossible_value_is_named_in_one_line(arguments, named, capsys):
    assert describe.main(arguments) == 2
    printed = capsys.readouterr()
    assert named in printed.err and printed.err.count("\n") == 1 and printed.out == ""
