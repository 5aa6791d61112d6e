"""Write a PNG file of images and, below each row, a model's reconstructions from one draw of q(z|x) each."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from rme.command_line import check_out, whole
from rme.commands import _images, _model


def options(parser: argparse.ArgumentParser) -> None:
    _model.options(parser)
    _images.options(parser)
    add = parser.add_argument
    add("--count", type=whole(1), default=16, metavar="N", help="how many, the first ones; default: %(default)s")
    add("--columns", type=whole(1), metavar="N", help="images in a row; default: about as many as rows")
    add("--seed", type=whole(0), metavar="N", help="of the draws; default: the run's own")
    add("--out", type=Path, required=True, metavar="FILE", help="the PNG file")


def run(options: argparse.Namespace) -> None:
    check_out(options.out, suffix=".png")
    from rme import pictures
    from rme.images import ImagesError, as_bytes

    model = _model.load(options)
    images = _images.load(options, model.image_shape)[: options.count]
    if not len(images):
        raise ImagesError(f"--images {options.images}: 0 images; expected at least 1")
    made = model.reconstruct(images, options.seed)
    # each row of images takes two of the picture's
    columns = min(options.columns or math.ceil(math.sqrt(2 * len(images))), len(images))
    originals = as_bytes(images).numpy()
    pictures.write(options.out, pictures.above(originals, pictures.of_unit(made.numpy()), columns), columns)
    print(options.out)
