"""Write a PNG file of images that a model generates: decoder means at draws of the prior, row by row."""

from __future__ import annotations

import argparse
from pathlib import Path

from rme.command_line import check_out, whole
from rme.commands import _model


def options(parser: argparse.ArgumentParser) -> None:
    _model.options(parser)
    add = parser.add_argument
    add("--count", type=whole(1), default=64, metavar="N", help="images; default: %(default)s")
    add("--columns", type=whole(1), metavar="N", help="images in a row; default: as many as rows")
    add("--seed", type=whole(0), metavar="N", help="of the draws; default: the run's own")
    add("--out", type=Path, required=True, metavar="FILE", help="the PNG file")


def run(options: argparse.Namespace) -> None:
    check_out(options.out, suffix=".png")
    from rme import pictures

    model = _model.load(options)
    images = model.sample(options.count, options.seed)
    pictures.write(options.out, pictures.of_unit(images.numpy()), options.columns)
    print(options.out)
