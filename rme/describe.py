"""Prints the networks layer by layer: `python -m rme.describe --dataset mnist --dim 10 --method rme --order 2`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rme import command_line, data, methods, nets
from rme.config import RunSpec

Row = tuple[str, str, str, int]


def layers(network: nn.Module, x: torch.Tensor) -> Iterator[Row]:
    """Name, input shape, output shape and number of parameters of each layer of a network applied to x."""
    rows: list[Row] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        count = sum(p.numel() for p in module.parameters(recurse=False))
        rows.append((type(module).__name__, _shape(inputs[0]), _shape(output), count))

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    yield from rows


def _shape(x: torch.Tensor) -> str:
    # without the axes of members and images
    return " x ".join(map(str, x.shape[2:]))


def tables(image_shape: nets.ImageShape, dim: int) -> Iterator[tuple[str, list[Row]]]:
    """Title and layers of the encoder and of both decoders for images of this shape (Tables 1-3, section 3)."""
    with torch.device("meta"):  # computes only shapes
        x, z = torch.empty(1, 1, *image_shape), torch.empty(1, 1, dim)
        encoder = nets.Encoder(1, dim, image_shape)
        rows = list(layers(encoder.trunk, x))
        yield "encoder", rows + list(layers(encoder.head, torch.empty(1, 1, encoder.width)))
        for kind in ("conv", "fc"):
            yield f"{kind} decoder", list(layers(nets.Decoder(1, dim, image_shape, kind).mean, z))


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", default="mnist", help="data set whose networks to print; default: %(default)s")
    add("--dim", type=int, default=10, help="latent dimension; default: %(default)s")
    add("--method", help="also count the parameters of this method")
    add("--order", type=int, help="the method's order, if it has one")
    add("--decoder", help="conv or fc, for --method; default: conv if the method works with it")


def run(options: argparse.Namespace) -> None:
    """Print the tables. SpecError, DataError or CommandError for an option's value that is impossible."""
    spec = _spec(options)
    shape = data.get(spec.dataset).shape
    console = Console()
    for title, rows in tables(shape, spec.dim):
        table = Table("layer", "in", "out", "parameters", title=f"{title}, {options.dataset}, dim {spec.dim}")
        table.columns[-1].justify = "right"
        for name, before, after, count in rows:
            table.add_row(name, before, after, f"{count:,}" if count else "")
        table.add_section()
        table.add_row("all", "", "", f"{sum(row[3] for row in rows):,}")
        console.print(table)
    if options.method:
        console.print(f"{spec.method_label}: {parameters(spec, shape)}")


def _spec(options: argparse.Namespace) -> RunSpec:
    """The run whose networks to print: a VAE's unless a method is named."""
    if options.method is None:
        for name, value in (("--order", options.order), ("--decoder", options.decoder)):
            if value is not None:
                raise command_line.CommandError(f"{name} {value}: it is of a method; name one with --method")
    try:
        method = methods.get(options.method or "vae")
    except ValueError as error:
        raise command_line.CommandError(f"--method {options.method}: {error}") from None
    if method.orders is not None and options.order is None:
        valid = ", ".join(map(str, method.orders))
        raise command_line.CommandError(
            f"--order is missing: {method.label} needs a number of {method.order_means}; valid values are {valid}"
        )
    return RunSpec.of(
        {"method": method.name, "dataset": options.dataset, "dim": options.dim, "order": options.order}
        | {"decoder": options.decoder or method.decoders[0]}
    )


def parameters(spec: RunSpec, shape: nets.ImageShape) -> str:
    """How many parameters a method has for images (C, H, W), in all and by its parts."""
    method = spec.method_class(spec, shape, 1)
    counts = {name: sum(math.prod(p.shape) for p in child.parameters()) for name, child in method.named_children()}
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{sum(p.numel() for p in method.parameters()):,} parameters: {parts}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 2, with a line on standard error, for an impossible value."""
    parser = argparse.ArgumentParser(prog="python -m rme.describe", description="Print networks layer by layer.")
    options(parser)
    given = parser.parse_args(arguments)
    return command_line.status("describe", lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
