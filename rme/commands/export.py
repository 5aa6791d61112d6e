"""Write a model's encoder and decoder into a folder as files that run without this package, and about.json beside.

The encoder takes images (N, C, H, W), float32 in [0, 1], and returns the parameters of q(z|x); the decoder takes
latents (N, p) and returns the mean of p(x|z) as images. N is any number.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rme.command_line import check_out
from rme.commands import _model


def options(parser: argparse.ArgumentParser) -> None:
    _model.options(parser)
    add = parser.add_argument
    add("--format", choices=("onnx", "torch"), default="onnx",
        help="onnx: for any ONNX runtime; torch: for torch.export.load; default: %(default)s")  # fmt: skip
    add("--only", choices=("encoder", "decoder"), help="one of the two; default: both")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the files")


def run(options: argparse.Namespace) -> None:
    check_out(options.out, folder=True)
    from rme.export import PARTS, export

    model = _model.load(options)
    parts = PARTS if options.only is None else (options.only,)
    print(*export(model, options.out, options.format, parts), sep="\n")
