"""The subcommands of `python -m rme`: each is a file of this folder with `options(parser)` and `run(options)`."""

from __future__ import annotations

import argparse
from importlib import import_module
from types import ModuleType

COMMANDS = {
    "score": "log-likelihood and ELBO of each image under a model, as CSV",
    "sample": "a picture of images that a model generates",
    "reconstruct": "a picture of images above a model's reconstructions of them",
    "export": "a model's encoder and decoder as ONNX or torch.export files",
    "describe": "the networks of a method, layer by layer",
}
"""What each subcommand makes. Here and not in its file, so that the list of them loads none, and thus no torch."""


def parser(name: str, prog: str) -> tuple[argparse.ArgumentParser, ModuleType]:
    """The parser of a subcommand of the program `prog`, and its module."""
    module = import_module(f"rme.commands.{name}")
    made = argparse.ArgumentParser(prog=f"{prog} {name}", description=(module.__doc__ or "").split("\n\n")[0])
    module.options(made)
    return made, module
