"""Write the log-likelihood and the ELBO of each image under a model as CSV: index, log_likelihood, elbo, in nats.

Both are estimated from the same draws of q(z|x). The mean over images and its standard error go to standard error.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from rme.command_line import check_out, whole
from rme.commands import _images, _model


def options(parser: argparse.ArgumentParser) -> None:
    _model.options(parser)
    _images.options(parser)
    add = parser.add_argument
    add("--k", type=whole(1), default=100, metavar="K", help="draws of q(z|x) per image; default: %(default)s")
    add("--seed", type=whole(0), metavar="N", help="of the draws; default: the run's own")
    add("--out", type=Path, metavar="FILE", help="the CSV file; default: standard output")


def run(options: argparse.Namespace) -> None:
    if options.out is not None:
        check_out(options.out)
    model = _model.load(options)
    images = _images.load(options, model.image_shape)
    scores = model.scores(images, options.k, options.seed)
    log_likelihood, elbo = scores.iwae.tolist(), scores.elbo.tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "log_likelihood", "elbo"])
    writer.writerows(zip(range(len(elbo)), log_likelihood, elbo, strict=True))
    if options.out is None:
        sys.stdout.write(text.getvalue())
    else:
        from rme.checkpoint import write_atomically

        write_atomically(options.out, lambda temporary: temporary.write_text(text.getvalue()))
    print(
        f"{model.spec.run_name}, {len(elbo)} images, k = {options.k}: "
        f"log-likelihood {_mean(log_likelihood)}, ELBO {_mean(elbo)} nats per image",
        file=sys.stderr,
    )


def _mean(values: Sequence[float]) -> str:
    """The mean and its standard error: `123.45 (s.e. 0.67)`; of a single value without."""
    mean = f"{fmean(values):.2f}"
    return f"{mean} (s.e. {stdev(values) / math.sqrt(len(values)):.2f})" if len(values) > 1 else mean
