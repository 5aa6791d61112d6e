"""The option that names images, and the images that it names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rme.command_line import CommandError
from rme.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from rme.nets import ImageShape

PARTS = ("train", "test", "all")


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--images", required=True, metavar="IMAGES",
        help="an .npz file (its array `images`, its only array or its `test`; FILE.npz:NAME: another), an .npy file, a "
        "folder of images, or a data set's name; of the latter two the test images, or NAME:train, or NAME:all",
    )  # fmt: skip
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR",
        help="folder of the data sets; default: %(default)s")  # fmt: skip


def load(options: argparse.Namespace, shape: ImageShape) -> Tensor:
    """The images, for a model of images (C, H, W): uint8 or float (N, C, H, W), as `rme.images.as_images` returns them.

    Raises:
        CommandError: there is no such file, array or data set.
        DataError: a data set cannot be read.
        ImagesError: the images do not fit the model.
    """
    from rme.images import as_images

    return as_images(_read(options.images, options.data_dir), shape, f"--images {options.images}")


def _read(text: str, data_dir: Path) -> Any:
    name, part = text, ""
    if not Path(text).expanduser().exists() and ":" in text:
        name, _, part = text.rpartition(":")
    if name.lower().endswith((".npz", ".npy")):
        return _of_file(text, Path(name).expanduser(), part)
    return _of_data_set(text, name, part, data_dir)


def _of_file(text: str, path: Path, part: str) -> Any:
    import numpy as np

    if not path.is_file():
        raise CommandError(f"--images {text}: {path} is not a file")
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            with found:
                return found[_choice(text, found.files, part)]
    except CommandError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise CommandError(f"--images {text}: {path} cannot be read: {first_line(error)}") from error
    if part:
        raise CommandError(f"--images {text}: {path} is one array, without names; leave out :{part}")
    return found


def _choice(text: str, names: list[str], part: str) -> str:
    """Which array of an .npz file: the one asked for, `images`, the only one, or a data set's `test`."""
    if part:
        if part not in names:
            raise CommandError(f"--images {text}: no array {part!r}; valid names are {', '.join(names) or 'none'}")
        return part
    if len(names) == 1:
        return names[0]
    for usual in ("images", "test"):
        if usual in names:
            return usual
    raise CommandError(f"--images {text}: choose an array by FILE.npz:NAME; the file has {', '.join(names) or 'none'}")


def _of_data_set(text: str, name: str, part: str, data_dir: Path) -> Tensor:
    from rme import data

    if part and part not in PARTS:
        raise CommandError(f"--images {text}: no part {part!r}; valid values are {', '.join(PARTS)}")
    try:
        dataset = data.get(name)
    except data.DataError:
        raise
    except ValueError as error:
        raise CommandError(f"--images {text}: {error}") from None
    images = dataset.load(data_dir)
    if part == "all":
        import torch

        return torch.cat([images.train, images.test])
    return images.train if part == "train" else images.test
