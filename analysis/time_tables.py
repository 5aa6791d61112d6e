"""Tables 4 and 6: how long inference takes, in milliseconds and as a multiple of the VAE's (section 2.1)."""

from __future__ import annotations

import pandas as pd

from analysis.names import CELL, ROW
from analysis.stats import KEY_TYPES, LABELS
from analysis.tables import DECODERS, Entry, Table, beside_table, fullest, method_of_label, slug, sort_rows, to_entry

TIMES = {
    "inference_ms": ("Inference time", "in milliseconds per batch; mean", 1),
    "ratio_to_vae": ("Inference time, ratio to the VAE's", "as a multiple of the VAE's, timed just before; median", 2),
}
"""For each score: title, unit and average, digits after the decimal point. Less is better."""


def is_timing(runs: pd.DataFrame) -> pd.Series:
    """Mask of the runs of a `timing` grid, each of which is timed against a VAE, alone on the device."""
    return runs["ratio_to_vae"].notna()


def summarise_times(runs: pd.DataFrame, score: str = "inference_ms") -> pd.DataFrame:
    """Mean time of each cell on each device.

    Args:
        runs: timings, as `analysis.collect.collect` returns them.
        score: a key of `TIMES`.

    Returns:
        One row for each cell and device. Columns: those of `CELL`, the labels, device, n (timings), mean and sd, in
        milliseconds per batch; ratio_to_vae has no unit. The sd is over the timings if there are several, else over
        the repeats of the only one (NaN if not recorded).
    """
    rows = []
    for _, cell in runs.assign(device=runs["device"].fillna("unknown device")).groupby([*CELL, "device"], dropna=False):
        values = cell[score].dropna()
        repeats = cell.get(f"{score}_sd", pd.Series(dtype=float))
        sd = values.std(ddof=1) if len(values) > 1 else repeats.iloc[0] if len(repeats) else float("nan")
        rows.append(
            cell.iloc[0][[*CELL, *LABELS, "device"]].to_dict() | {"n": len(values), "mean": values.mean(), "sd": sd}
        )
    frame = pd.DataFrame(rows, columns=[*CELL, *LABELS, "device", "n", "mean", "sd"])
    return sort_rows(frame.astype({**KEY_TYPES, "mean": float, "sd": float}))


def time_tables(runs: pd.DataFrame, expected_seeds: int | None = None) -> list[Table]:
    """Tables 4, one for each latent dimension, and 6, both in milliseconds and as a ratio to the VAE's time.

    Table 6 has the times with the fully connected decoder, and in parentheses with the convolutional one. A dimension
    whose times are all in those parentheses has no Table 4. Each device has its own tables.

    Args:
        runs: timings, as `analysis.collect.collect` returns them.
        expected_seeds: timings of a complete cell; by default as many as the fullest cell of `runs`.
    """
    expected = expected_seeds or fullest(runs)
    devices = sorted(runs["device"].fillna("unknown device").unique())
    tables: list[Table] = []
    for device in devices:
        for score in TIMES:
            cells = summarise_times(runs, score)
            suffix = f"-{slug(device)}" if len(devices) > 1 else ""
            tables += _of_device(cells[cells["device"] == device], score, device, suffix, expected, runs)
    return tables


def _of_device(
    cells: pd.DataFrame, score: str, device: str, suffix: str, expected: int, runs: pd.DataFrame
) -> list[Table]:
    title, unit, digits = TIMES[score]

    def empty(name: str, subject: str, heads: str, parentheses: str = "") -> Table:
        caption = (
            f"Time of q(z|x) and one draw, alone on the device ({device}), {unit} and standard deviation over "
            f"{_listed(runs, 'repeats', 'the')} passes over the test set, {_listed(runs, 'batch_size', 'some')} images "
            f"per batch{parentheses}."
        )
        return Table(f"{score}-{name}{suffix}", f"{title}: {subject}, {device}", caption, score, [], [], {},
                     digits=digits, heads=heads)  # fmt: skip

    def entry(cell: pd.Series) -> Entry:
        return to_entry(cell, expected)

    full, rest = cells[cells["decoder"] == "fc"], cells[cells["decoder"] != "fc"]
    parentheses = full[[*ROW, "dataset", "dim"]].merge(rest, how="inner")
    found = []
    for _, group in rest.groupby(["decoder", "dim"], sort=False):
        decoder, dim = group[["decoder", "dim"]].iloc[0]
        if len(group.merge(parentheses, how="inner", on=[*CELL])) < len(group):
            name, subject = f"{slug(decoder)}-d{dim}", f"{DECODERS.get(decoder, decoder)}, dim {dim}"
            found.append(beside_table(group, group.iloc[:0], entry, empty(name, subject, "dataset")))
    words = "; in parentheses, with the convolutional decoder" if len(parentheses) else ""
    found.append(beside_table(full, rest, entry, empty("fc", DECODERS["fc"], "both", words)))
    return [table for table in found if table is not None]


def _listed(runs: pd.DataFrame, name: str, unknown: str) -> str:
    values = sorted({str(value) for value in runs[name].dropna()}) if name in runs else []
    return " or ".join(values) or unknown


def time_findings(runs: pd.DataFrame) -> list[str]:
    """A sentence for each device: each method's inference time as a multiple of the VAE's.

    Args:
        runs: timings, as `analysis.collect.collect` returns them; at least one.
    """
    sentences = []
    for device, cells in summarise_times(runs, "ratio_to_vae").groupby("device"):
        others = cells[(cells["method"] != "vae") & cells["mean"].notna()]
        if others.empty:
            sentences.append(f"On {device}, only the VAE was timed.")
            continue
        parts = []
        for _, method in others.groupby("method", sort=False):
            label = method_of_label(method["method_label"].iloc[0])
            low, high = f"{method['mean'].min():.2g}", f"{method['mean'].max():.2g}"
            parts.append(f"{label} {low if low == high else f'{low} to {high}'}")
        sentences.append(f"On {device}, inference takes these multiples of the VAE's time: {', '.join(parts)}.")
    return sentences
