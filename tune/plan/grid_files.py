"""The grids that come with the project, and a grid's file by its name. Torch is not imported: `--help` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from rme.errors import nearest
from tune.plan.errors import GridError

GRIDS = Path(__file__).parent.parent / "grids"
_SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """The names of the grids in `tune/grids`."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def descriptions() -> Mapping[str, str]:
    """What each grid of `tune/grids` runs, in the one line that its file says."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is available
    return {name: yaml.load((GRIDS / f"{name}.yaml").read_text(), loader)["description"] for name in names()}


def find(source: str) -> Path:
    """The file of a grid. Raises GridError naming the available grids."""
    if source.endswith(_SUFFIXES):
        path = Path(source)
        if not path.is_file():
            near = f"did you mean {path.stem}?" if path.stem in names() else nearest(source, map(str, _siblings(path)))
            raise GridError(f"--grid {source}: file not found; {near or valid_names()}".rstrip())
        return path
    path = GRIDS / f"{source}.yaml"
    if not path.is_file():
        others = [*names(), *(str(Path(source + suffix)) for suffix in _SUFFIXES if Path(source + suffix).is_file())]
        raise GridError(f"--grid {source}: no such grid; {nearest(source, others)}{valid_names()}")
    return path


def _siblings(path: Path) -> list[Path]:
    return [each for suffix in _SUFFIXES for each in path.parent.glob(f"*{suffix}")]


def valid_names() -> str:
    """The end of an error about `--grid`."""
    return f"valid values are {', '.join(names())}, or the path of a .yaml file"


def is_plain_name(text: str) -> bool:
    """Whether this can name folders and experiments."""
    return text.strip() == text != "" and text.isprintable() and "/" not in text and not text.startswith(".")
