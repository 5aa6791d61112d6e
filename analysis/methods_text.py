"""A paragraph for a paper's section on methods, made from the runs; as plain text, and as LaTeX with its citations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.citations import cited_for, references, to_bibtex
from analysis.conditions import DataSet, compute_text, data_sets, device_seconds, network_words, unit_of
from analysis.names import CELL, COLUMN, CONTROL
from analysis.rate_text import rate_text
from analysis.render import escape_latex
from analysis.signed_rank import LEVEL, smallest_p
from analysis.stats import KEY_TYPES, natural
from analysis.tables import METHODS, SCORES, place
from analysis.trainings import Training, by_row, equal_control, training_of, trainings

_METHODS = {
    "vae": ("the VAE", ""),
    "sa": ("the semi-amortised VAE", "gradient step"),
    "iaf": ("inverse autoregressive flows", "flow"),
    "hf": ("Householder flows", "flow"),
    "me": ("the mixture encoder trained end to end", "component"),
    "rme": ("the recursive mixture encoder", "component"),
    "bvi-er1": ("the recursive mixture with the entropy regulariser of boosted variational inference", "component"),
    "bvi-er2": ("the recursive mixture with the closed-form entropy regulariser of boosted variational inference",
                "component"),
    "vlae": ("the variational Laplace autoencoder", "linearisation"),
    "svi": ("the posterior of the finished VAE, optimised for each image", "Adam step"),
    CONTROL: ("the finished VAE with additional training, as a control", ""),
}  # fmt: skip
"""Each method in words, and what its order counts. Other methods go by their label."""

_FEWEST_TESTED = next(n for n in range(1, 99) if smallest_p(n) <= LEVEL)  # pairs that can give a p of .05
_FEWEST_FOR_INTERVAL = _FEWEST_TESTED + 1  # two-sided: the level .95 needs one pair more

_DECODERS = {"conv": "convolutional", "fc": "fully connected"}
_DECODER_NETWORKS = {
    "conv": "The convolutional decoder mirrors the encoder.",
    "fc": "The fully connected decoder has two hidden layers and about as many parameters as the convolutional one.",
}
"""Each decoder in words; others go by their name."""

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Around the keys of a citation, until the format is chosen: characters of Unicode that mean nothing."""
_CITE = re.compile(f"{_OPEN}(.*?){_CLOSE}")
_CITE_IN_WORDS = re.compile(rf"{_OPEN}(.*?){_CLOSE}( \()?")


@dataclass(frozen=True)
class Paragraph:
    r"""The paragraph.

    Attributes:
        text: plain, with `(Kingma and Welling 2014)` for a citation.
        latex: the same with `\cite{kingma2014auto}`.
        bibtex: a BibTeX file with what it cites.
    """

    text: str
    latex: str
    bibtex: str


def methods_paragraph(runs: pd.DataFrame, score: str = "test_iwae") -> Paragraph:
    """How the runs were made, in sentences that state only what was recorded.

    Args:
        runs: trainings, one row for each run, at least one, as `analysis.collect.collect` returns them.
        score: a key of `analysis.tables.SCORES`, by which methods are compared.
    """
    runs = runs.astype(KEY_TYPES)
    sentences = [
        _data(runs), *_model(runs), _methods(runs), *_training(runs), _seeds(runs), *_score(runs, score), _compute(runs)
    ]  # fmt: skip
    marked = " ".join(filter(None, sentences))
    keys = [key for found in _CITE.findall(marked) for key in found.split(",")]
    short = {reference.key: reference.short for reference in references()}

    def in_words(found: re.Match[str]) -> str:
        words = "; ".join(short[key] for key in found[1].split(","))
        return f" ({words}; " if found[2] else f" ({words})"  # one pair of parentheses, not two in a row

    parts = _CITE.split(marked)  # text, keys, text, keys, ...
    latex = "".join(rf"~\cite{{{part}}}" if i % 2 else _latex(part) for i, part in enumerate(parts))
    return Paragraph(_CITE_IN_WORDS.sub(in_words, marked) + "\n", latex + "\n", to_bibtex(keys))


def _latex(text: str) -> str:
    return escape_latex(text).replace("N(0, I)", r"$\mathcal{N}(0, I)$").replace("“", "``").replace("”", "''")


def _cite(*uses: str) -> str:
    """A mark with the keys of what is cited for these uses; empty if nothing is."""
    keys = ",".join(reference.key for reference in cited_for(*uses))
    return f"{_OPEN}{keys}{_CLOSE}" if keys else ""


# ---------------------------------------------------------------------- the sentences
def _data(runs: pd.DataFrame) -> str:
    found = data_sets(runs)
    same_dims = all(each.dims == found[0].dims for each in found)
    named = [f"{each.label}{_cite(f'dataset:{each.name}')}{_about(each, same_dims)}" for each in found]
    dims = f", with {_dims(found[0].dims)}" if same_dims else ""
    return f"We trained variational autoencoders on {_listed(named)}{dims}."


def _about(dataset: DataSet, same_dims: bool) -> str:
    """A data set's images, in parentheses."""
    parts = []
    if dataset.shape is not None:
        channels, height, width = dataset.shape
        kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
        parts.append(f"{kind} images of {height}×{width} pixels")
    if dataset.split is not None:
        train, validation, test = dataset.split
        parts.append(f"{train:,} for training, {validation:,} for validation and {test:,} for testing")
    if not same_dims:
        parts.append(_dims(dataset.dims))
    return f" ({'; '.join(parts)})" if parts else ""


def _dims(dims: Sequence[int]) -> str:
    return "one latent dimension" if list(dims) == [1] else f"{_listed(map(str, dims), 'or')} latent dimensions"


def _model(runs: pd.DataFrame) -> list[str]:
    decoders = sorted(runs["decoder"].unique())
    kinds = _listed([_DECODERS.get(decoder, f"“{decoder}”") for decoder in decoders], "or")
    networks = network_words(runs)
    sentences = [
        "Pixels were scaled to [0, 1] and centred by their means over the training images; they were neither binarised "
        "nor dequantised.",
        f"The prior is N(0, I), and the likelihood a Gaussian whose mean is a {kinds} decoder and whose one variance, "
        "shared by all pixels, is learned.",
    ]
    if networks:
        everywhere = len(networks) == 1 and all(each.shape is not None for each in data_sets(runs))
        described = [words + ("" if everywhere else f" on {_listed(labels)}") for words, labels in networks.items()]
        sentences.append(f"An encoder has {'; '.join(described)}.")
    return [*sentences, *(words for decoder, words in _DECODER_NETWORKS.items() if decoder in decoders)]


def _methods(runs: pd.DataFrame) -> str:
    named = []
    for method in sorted(runs["method"].unique(), key=lambda name: place(name, METHODS)):
        own = runs[runs["method"] == method]
        words, counted = _METHODS.get(method, ("", ""))
        label = str(own["method_label"].iloc[0]).partition("(")[0].partition(",")[0]
        orders = sorted({int(order) for order in own["order"].dropna()})
        notes = [] if method == "vae" else [label] if words else []
        if orders and counted:
            notes.append(f"{_listed(map(str, orders))} {counted}{'' if orders == [1] else 's'}")
        elif orders:
            notes.append(f"order {_listed(map(str, orders))}")
        variants = sorted(own["variant"].dropna().unique(), key=natural)
        if variants:
            settings = "a setting" if len(variants) == 1 else "settings"
            also = "also " if own["variant"].isna().any() else ""
            notes.append(f"{also}in {settings} named {_listed(f'“{variant}”' for variant in variants)}")
        named.append(f"{words or label}{_cite(f'method:{method}')}" + (f" ({'; '.join(notes)})" if notes else ""))
    return f"We compare {_listed(named)}." if len(named) > 1 else f"The method is {named[0]}."


def _training(runs: pd.DataFrame) -> list[str]:
    cells = [training_of(run) for run in runs.drop_duplicates(CELL).to_dict("records")]
    scratch = [cell for cell in cells if cell.epochs is not None]
    batch = _values(cell.rest[1] for cell in cells)
    precision = _values(cell.rest[2] for cell in cells)
    of = [f"batches of {_listed(batch, 'or')} images"] if batch else []
    of += [f"in {_listed(precision, 'or')}"] if precision else []
    how = f"with Adam{_cite('adam')}" + (f", {', '.join(of)}" if of else "")
    if not scratch:
        return [f"Training was {how}."]
    lengths = _values(f"{cell.epochs:,}" for cell in scratch)
    rates = _values(rate_text(cell.learning_rate) for cell in scratch if cell.learning_rate is not None)
    at = f" at a learning rate of {_listed(rates, 'or')}" if rates else ""
    sentences = [f"A training from scratch took {_listed(lengths, 'or')} epochs {how}{at}{_finish(scratch)}."]
    staged = [cell for cell in cells if cell.stage_epochs]
    if staged:
        names = _values(
            str(run["method_label"]).partition("(")[0].partition(",")[0]
            for run in runs.drop_duplicates(CELL).to_dict("records") if training_of(run).stage_epochs
        )  # fmt: skip
        stages = _values(f"{cell.stage_epochs:,}" for cell in staged)
        stage_rates = _values(rate_text(cell.stage_rate) for cell in staged if cell.stage_rate is not None)
        stage_at = f" at {_listed(stage_rates, 'or')}" if stage_rates else ""
        more = f"started from the finished VAE of the same seed and trained for {_listed(stages, 'or')} more epochs"
        sentences.append(f"{_listed(names)} {more}{stage_at}.")
    kept = _values((cell.stage_keep or cell.keep) for cell in cells if cell.is_trained)
    if kept == ["best"]:
        sentences.append("A training kept the parameters of the epoch with the best validation ELBO.")
    elif kept == ["last"]:
        sentences.append("A training kept the parameters of its last epoch.")
    else:
        sentences.append("A training kept the parameters of the epoch with the best validation ELBO or, in some "
                         "settings, of its last epoch.")  # fmt: skip
    limits = [value for cell in cells for value in (cell.patience, cell.stage_patience)]
    patience = _values(str(value) for value in limits if value is not None)
    if patience:
        sentences.append(
            f"It ended early when the best epoch was {_listed(patience, 'or')} epochs old"
            + ("." if all(cell.patience is not None for cell in cells) else ", in some settings.")
        )
    return sentences


def _finish(cells: Sequence[Training]) -> str:
    finished = _values((f"{cell.finish_epochs:,}", rate_text(cell.finish_rate)) for cell in cells if cell.finish_epochs)
    if not finished:
        return ""
    some = "" if all(cell.finish_epochs for cell in cells) else "in some settings "
    return f"; {some}the last {_listed((f'{epochs} were at {rate}' for epochs, rate in finished), 'or the last')}"


def _seeds(runs: pd.DataFrame) -> str:
    counts = runs.groupby(CELL, dropna=False)["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    number = f"{low} to {high} seeds" if low < high else "one seed" if low == 1 else f"{low} seeds"
    restarts = _values(int(value) for value in runs["restarts"].dropna())
    chosen = ""
    if any(value > 1 for value in restarts):
        many = _listed(map(str, sorted(restarts)), "or")
        chosen = f", and {many} restarts for each seed, of which the one with the best validation IWAE was taken"
    elif restarts == [1]:
        chosen = ", one training a seed" if high > 1 else ", in one training"
    which = "the" if low == high == 1 else "each"
    return (
        f"Each setting was trained with {number}{chosen}; {which} seed determines the validation images, the "
        "initialisation and all noise."
    )


def _score(runs: pd.DataFrame, score: str) -> list[str]:
    samples = _values(str(value) for value in runs.get("iwae_samples", pd.Series(dtype=str)).dropna())
    what = SCORES[score][0].lower() + SCORES[score][1:]
    by = f", the importance-weighted bound{_cite('iwae')}" + (
        f" with {_listed(samples, 'or')} samples" if samples else ""
    )
    several = runs.groupby(CELL, dropna=False)["seed"].nunique().max() > 1
    sentences = [f"We report the {what}{by if score.endswith('iwae') else ''}, in nats per image"
                 + (", as mean and standard deviation over the seeds." if several else ".")]  # fmt: skip
    scored = runs[runs[score].notna()]
    rows = scored.groupby(COLUMN)[["method_label"]].nunique().max().max() if len(scored) else 0
    pairs = int(scored.groupby(CELL, dropna=False)["seed"].nunique().max()) if len(scored) else 0
    if rows > 1 and smallest_p(pairs) <= LEVEL:
        column = (
            "data set and latent dimension" if runs["decoder"].nunique() == 1 else "data set, dimension and decoder"
        )
        sentences.append(
            f"Within each {column}, the row with the best mean was tested against each other row "
            f"by the one-sided Wilcoxon signed-rank test{_cite('wilcoxon')}, paired by seed. Marks show the "
            "uncorrected p-values; those corrected for all tests of that column by Holm's method"
            f"{_cite('holm')} are given beside them."
        )
        if int(scored.groupby(CELL, dropna=False)["seed"].nunique().min()) < _FEWEST_TESTED:
            sentences.append(f"Rows with fewer than {_FEWEST_TESTED} pairs were not tested.")
    return [*sentences, *_controls(scored)]


def _controls(scored: pd.DataFrame) -> list[str]:
    """How rows were compared with their controls; nothing if no row shares a seed with one."""
    pairs = 0
    for _, column in scored.groupby(COLUMN):
        known, rows = trainings(column), by_row(column)
        for key in known:
            control = equal_control(key, known)
            if control is not None:
                pairs = max(pairs, len(set(rows[key]["seed"]) & set(rows[control]["seed"])))
    if not pairs:
        return []
    interval = " with its confidence interval" if pairs >= _FEWEST_FOR_INTERVAL else ""
    p = " and the uncorrected p of the one-sided Wilcoxon signed-rank test" if pairs >= _FEWEST_TESTED else ""
    return [
        "Each row that has a control, the VAE trained for as many epochs at the same rate, was also compared with it, "
        f"paired by seed: we give the Hodges-Lehmann estimate of the difference{interval}{p}."
    ]


def _compute(runs: pd.DataFrame) -> str:
    known = device_seconds(runs).dropna()
    devices = _values(runs["device"].dropna())
    versions = [f"PyTorch {_listed(_values(runs['torch_version'].dropna()), 'or')}{_cite('pytorch')}"]
    if runs["torch_version"].dropna().empty:
        versions = [f"PyTorch{_cite('pytorch')}"]
    pythons = _values(runs["python_version"].dropna()) if "python_version" in runs else []
    versions += [f"Python {_listed(pythons, 'or')}"] if pythons else []
    on = f" on {_listed(devices, 'or')}" if devices else ""
    number = "run" if len(runs) == 1 else f"{len(runs):,} runs"
    if known.empty:
        return f"The {number} {'was' if len(runs) == 1 else 'were'} made{on}, with {_listed(versions)}."
    untimed = len(runs) - len(known)
    but = f" ({untimed:,} of them without a recorded time)" if untimed else ""
    return f"The {number}{but} took {compute_text(float(known.sum()), unit_of(runs))}{on}, with {_listed(versions)}."


# ---------------------------------------------------------------------- words
def _listed(words: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; with semicolons where a word has a comma of its own."""
    found = list(words)
    if len(found) < 2:
        return "".join(found)
    outside = [re.sub(r"\(.*?\)", "", word) for word in found]
    comma = "; " if len(found) > 2 and any(", " in word for word in outside) else ", "
    return f"{comma.join(found[:-1])}{';' if comma == '; ' else ''} {last} {found[-1]}"


def _values(values: Iterable) -> list:
    """The distinct values, numbers by size."""
    found = dict.fromkeys(value for value in values if value is not None)
    return sorted(found, key=lambda value: natural(str(value).replace(",", "")))
