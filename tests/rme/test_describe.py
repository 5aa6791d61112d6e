"""The printed layers are those of the real networks."""

from __future__ import annotations

import itertools

import pytest

from rme import data, describe, nets


@pytest.mark.parametrize("name", sorted(data.names()))
def test_rows_chain_and_add_up(name):
    shape, dim = data.get(name).shape, 20
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


def test_the_command_prints_a_method_s_parts_and_refuses_an_unknown_data_set(capsys):
    assert describe.main(["--dataset", "mnist", "--method", "rme", "--order", "2"]) == 0
    printed = capsys.readouterr().out
    # Table 1 by hand: 32 kernels of 4x4 on one channel and their biases; 576 x 256 and its biases
    assert "544" in printed and "147,712" in printed and "RME(2)" in printed
    assert describe.main(["--dataset", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
