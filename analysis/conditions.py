"""The conditions of an experiment's trainings: its data sets, its networks, and the compute that each row took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.duration import duration, two_digits
from analysis.listing import Listing, Value
from analysis.stats import KEY_TYPES
from analysis.tables import DATASETS, place, sort_rows

Shape = tuple[int, int, int]

_BEFORE: dict[str, tuple[Shape, tuple[int, int, int]]] = {
    "mnist": ((1, 28, 28), (54_000, 6_000, 10_000)),
    "omniglot": ((1, 28, 28), (21_911, 2_434, 8_070)),
    "omniglot-lake": ((1, 28, 28), (17_352, 1_928, 13_180)),
    "cifar10": ((3, 32, 32), (45_000, 5_000, 10_000)),
    "svhn": ((3, 32, 32), (65_931, 7_326, 26_032)),
    "celeba": ((3, 64, 64), (162_079, 20_260, 20_260)),
    "digits": ((1, 28, 28), (1_167, 130, 500)),
}
"""Shape and split of the data sets that existed before runs recorded them. A newer data set needs no entry."""


@dataclass(frozen=True)
class DataSet:
    """A data set as the runs used it.

    Attributes:
        name, label: as in the runs.
        dims: latent dimensions, ascending.
        shape: (C, H, W) of an image; None if not recorded.
        split: numbers of training, validation and test images; None if not recorded.
    """

    name: str
    label: str
    dims: list[int]
    shape: Shape | None
    split: tuple[int, int, int] | None


def data_sets(runs: pd.DataFrame) -> list[DataSet]:
    """The data sets of these runs, in the paper's order. Runs as from `analysis.collect.collect`."""
    found = []
    for name in sorted(runs["dataset"].unique(), key=lambda name: place(name, DATASETS)):
        own = runs[runs["dataset"] == name]
        shape, split = _BEFORE.get(name, (None, None))
        recorded = _only(own, "image_shape")
        if recorded is not None:
            channels, height, width = map(int, str(recorded).split("x"))
            shape = (channels, height, width)
        counts = [_only(own, f"{part}_images") for part in ("train", "validation", "test")]
        if None not in counts:
            split = (int(counts[0]), int(counts[1]), int(counts[2]))
        dims = sorted(int(dim) for dim in own["dim"].unique())
        found.append(DataSet(str(name), str(own["dataset_label"].iloc[0]), dims, shape, split))
    return found


def _only(runs: pd.DataFrame, column: str) -> Any:
    """The value that all runs that have one agree on, or None."""
    values = list(runs[column].dropna().unique()) if column in runs else []
    return values[0] if len(values) == 1 else None


# ---------------------------------------------------------------------- networks
@dataclass(frozen=True)
class Architecture:
    """The networks for images of one shape (Tables 1-3, `rme.nets.convolutions`).

    Attributes:
        channels: of the encoder's convolutions.
        width: units of the hidden layer.
    """

    channels: tuple[int, ...]
    width: int


def architecture(shape: Shape) -> Architecture:
    """The networks for square images (C, H, W)."""
    count = 3 + (shape[1] // 64).bit_length()
    return Architecture((32, 32, *[64] * (count - 2)), 256 if shape[1] < 32 else 512)


def network_words(runs: pd.DataFrame) -> dict[str, list[str]]:
    """The encoders in words, each with the labels of its data sets; none where the images' shape is not recorded."""
    found: dict[str, list[str]] = {}
    for each in data_sets(runs):
        if each.shape is not None:
            own = architecture(each.shape)
            channels = [str(count) for count in own.channels]
            words = (
                f"{_NUMBERS[len(channels)]} 4×4 convolutions of stride 2 with {', '.join(channels[:-1])} and "
                f"{channels[-1]} channels, and a hidden layer of {own.width} units"
            )
            found.setdefault(words, []).append(each.label)
    return found


_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]

_DECODERS = {
    "conv": "convolutional, the encoder in reverse",
    "fc": "fully connected, with two hidden layers and about as many parameters as the convolutional one",
}


def model_facts(runs: pd.DataFrame) -> dict[str, str]:
    """What every model has in common, by name; runs as from `analysis.collect.collect`."""
    encoders = network_words(runs)
    restarts = sorted(int(value) for value in runs["restarts"].dropna().unique())
    facts = {
        "Pixels": "in [0, 1], minus their means over the training images; neither binarised nor dequantised",
        "Prior": "N(0, I)",
        "Likelihood": "Gaussian: its mean is the decoder's output, its one variance, shared by all pixels, is learned. "
        "A density, so log-likelihoods can be positive",
        "Encoder": "; ".join(
            words + (f" ({', '.join(labels)})" if len(encoders) > 1 else "") for words, labels in encoders.items()
        ),
        "Decoder": "; ".join(_DECODERS[name] for name in sorted(runs["decoder"].unique()) if name in _DECODERS),
        "Optimiser": "Adam, β = (0.9, 0.999), no weight decay",
    }
    if any(count > 1 for count in restarts):
        facts["Chosen restart"] = "the one with the best validation IWAE; only it sees the test images"
    return {name: words for name, words in facts.items() if words}


# ---------------------------------------------------------------------- compute
def unit_of(runs: pd.DataFrame) -> str:
    """`GPU` or `core`, in which the training time of these runs is counted; empty if they differ or do not say."""
    kinds = list(runs["device_type"].unique()) if "device_type" in runs else []
    if len(kinds) != 1 or pd.isna(kinds[0]):
        return ""
    if kinds[0] == "cpu":
        return "core" if runs["threads"].notna().all() else ""
    return "GPU"


def device_seconds(runs: pd.DataFrame) -> pd.Series:
    """Seconds that each run occupied one GPU or one core, as `unit_of` says; without a unit, of training."""
    seconds = runs["train_s"].astype(float)
    return seconds * runs["threads"].astype(float) if unit_of(runs) == "core" else seconds


def compute_text(seconds: float, unit: str) -> str:
    """`3.2 GPU-hours`, `14 core-minutes`, `2.1 hours of training` without a unit: minutes below one hour and a half."""
    size, name = (3600, "hour") if seconds >= 5400 else (60, "minute")
    words = f"{unit}-{name}s" if unit else f"{name}s"
    return f"{two_digits(seconds / size)} {words}" + ("" if unit else " of training")


# ---------------------------------------------------------------------- lists
def dataset_listing(runs: pd.DataFrame) -> Listing:
    """Each data set's images: their shape, and how many are in each part of the split."""
    found = data_sets(runs)
    rows: list[list[Value]] = []
    for each in found:
        split = map("{:,}".format, each.split) if each.split else ("not recorded", "", "")
        shape = "×".join(map(str, each.shape)) if each.shape else "not recorded"
        rows.append([each.label, shape, *split, ", ".join(map(str, each.dims))])
    caption = (
        "Channels × height × width of an image, and the number of images in each part of the split. The seed decides "
        "which images are held out for validation."
    )
    header = ["Data set", "Image", "Training", "Validation", "Test", "Latent dimensions"]
    return Listing("data-sets", "Data sets", caption, header, rows, datasets=[each.name for each in found])


def compute_listing(runs: pd.DataFrame) -> Listing:
    """Runs, parameters and training time of each row over all columns; at the end of all rows together.

    Args:
        runs: trainings, one row for each run, as `analysis.collect.collect` returns them.
    """
    unit = unit_of(runs)
    seconds = device_seconds(runs)
    has_decoder = runs["decoder_parameters"].notna().any()
    cells = sort_rows(runs.drop_duplicates(["method", "order", "variant"]).astype(KEY_TYPES))
    rows: list[list[Value]] = []
    counts = ["parameters", *(["decoder_parameters"] if has_decoder else []), "updates"]
    for label in dict.fromkeys(cells["method_label"]):
        own = runs[runs["method_label"] == label]
        rows.append([label, str(len(own)), *(_span(own[name]) for name in counts), *_times(seconds[own.index])])
    if len(rows) > 1:
        rows.append(["All", str(len(runs)), *([""] * len(counts)), *_times(seconds)])
    what = {"GPU": "how long one GPU was occupied", "core": "how long one core was occupied", "": "of training"}[unit]
    caption = (
        "Parameters: of a whole model. Updates a step: optimiser steps for each batch. Time: "
        f"{what}, restarts included; runs that are trained as one array share its time equally. The training of the "
        "VAE that a row starts from is in the VAE's row. Over all columns; empty: not recorded."
    )
    time = {"GPU": "GPU time", "core": "Core time", "": "Time"}[unit]
    decoder = ["Of the decoder"] if has_decoder else []
    header = ["Row", "Runs", "Parameters", *decoder, "Updates a step", time, f"{time} of a run"]
    return Listing("compute", "Parameters and compute", caption, header, rows, labels=(0,))


def _times(seconds: pd.Series) -> list[Value]:
    known = seconds.dropna()
    if known.empty:
        return ["", ""]
    return [duration(float(known.sum())), duration(float(known.mean()))]


def _span(numbers: pd.Series) -> str:
    """`403,222`, or the smallest and the largest of several; empty if none is recorded."""
    values = sorted(int(value) for value in numbers.dropna().unique())
    return " to ".join(f"{value:,}" for value in dict.fromkeys([*values[:1], *values[-1:]]))
