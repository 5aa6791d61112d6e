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

from rme import data, nets
from rme.config import RunSpec
from rme.untrained import untrained

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 2, with a line on standard error, for an unknown data set or method."""
    parser = argparse.ArgumentParser(prog="python -m rme.describe", description="Print networks layer by layer.")
    parser.add_argument("--dataset", default="mnist", help="data set whose networks to print; default: %(default)s")
    parser.add_argument("--dim", type=int, default=10, help="latent dimension; default: %(default)s")
    parser.add_argument("--method", help="also count the parameters of this method")
    parser.add_argument("--order", type=int)
    parser.add_argument("--decoder", default="conv")
    options = parser.parse_args(arguments)
    try:
        shape = data.get(options.dataset).shape
        spec = RunSpec.of(
            {"method": options.method or "vae", "dataset": options.dataset, "dim": options.dim}
            | {"order": options.order, "decoder": options.decoder}
        )
    except ValueError as error:
        print(f"describe: {error}", file=sys.stderr)
        return 2
    console = Console()
    for title, rows in tables(shape, options.dim):
        table = Table("layer", "in", "out", "parameters", title=f"{title}, {options.dataset}, dim {options.dim}")
        table.columns[-1].justify = "right"
        for name, before, after, count in rows:
            table.add_row(name, before, after, f"{count:,}" if count else "")
        table.add_section()
        table.add_row("all", "", "", f"{sum(row[3] for row in rows):,}")
        console.print(table)
    if options.method:
        method = untrained([spec], shape)
        counts = {name: sum(math.prod(p.shape) for p in child.parameters()) for name, child in method.named_children()}
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        console.print(f"{spec.method_label}: {sum(p.numel() for p in method.parameters()):,} parameters: {parts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
