"""The paragraph for a paper, from runs whose numbers are known here, and its references, read by another reader."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from analysis.citations import references
from analysis.collect import collect
from analysis.methods_text import methods_paragraph
from rme import data, methods
from tests.analysis.test_collect import Store

HOURS = {"device_type": "cuda", "python_version": "3.11.9"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory)
    for seed in range(5):
        for dim, dataset, label in ((10, "mnist", "MNIST"), (20, "mnist", "MNIST"), (10, "svhn", "SVHN")):
            place = {"dim": dim, "dataset": dataset, "label": label, "tags": HOURS, "iwae_samples": 100}
            store.run("paper", "vae", None, seed, 100 + seed, **place)
            store.run("paper", "rme", 2, seed, 110 + seed, **place)
            store.run("paper", "rme", 5, seed, 112 + seed, **place)
    store.run("alone", "vae", None, 0, 1.0, dataset="mine.npz", label="mine", restarts=1, iwae_samples=1)
    store.run("hostile", "vae", None, 0, 1.0, label=r"50% of \x_1 & {y}", dataset="x", restarts=1)
    return store


@pytest.fixture(scope="module")
def paper(store):
    return methods_paragraph(collect(store.uri, "paper"))


def test_the_paragraph_states_what_was_run(paper):
    """Every number from the runs that the fixture wrote, or from the data sets' own sizes."""
    for expected in (
        "on MNIST (LeCun et al. 1998; grey images of 28×28 pixels; 54,000 for training, 6,000 for validation and 10,0",
        "and SVHN (Netzer et al. 2011; colour images of 32×32 pixels; 65,931 for training, 7,326 for validation and",
        "10 or 20 latent dimensions", "(Kim and Pavlovic 2020; RME; 2 and 5 components)", "took 20 epochs with Adam",
        "batches of 128 images", "RME started from the finished VAE of the same seed", "for 5 more epochs at 1e-6",
        "with 5 seeds, and 3 restarts for each seed", "with 100 samples", "one-sided Wilcoxon signed-rank test",
        "The 45 runs took 22 GPU-hours on cpu, with PyTorch 2.14.1 (Paszke et al. 2019) and Python 3.11.9.",
    ):  # fmt: skip
        assert expected in paper.text, expected  # 45 x 1800 s are 22.5 h; round half to even
    assert ".." not in paper.text and "  " not in paper.text and " ," not in paper.text


def test_one_run_of_unknown_images_states_no_size_and_no_test(store):
    text = methods_paragraph(collect(store.uri, "alone")).text
    assert "on mine, with 10 latent dimensions." in text and "pixels;" not in text and "An encoder" not in text
    assert "The method is the VAE (Kingma and Welling 2014; Rezende et al. 2014)." in text
    assert "with one seed, in one training; the seed determines" in text
    assert "Wilcoxon" not in text and "standard deviation" not in text
    assert "The run took 30 minutes of training on cpu" in text


def test_what_is_said_of_tests_corrections_and_controls(store, paper):
    """Five pairs suffice for a p of 1/32 but for no interval of 95%; four suffice for neither."""
    assert "Marks show the uncorrected p-values; those corrected" in paper.text and "control" not in paper.text
    runs = collect(store.uri, "paper")
    control = runs[runs["order"].eq(2)].assign(method="vae-more", order=pd.NA, method_label="VAE-more")
    both = pd.concat([runs, control])
    text = methods_paragraph(both).text
    assert "was also compared with it, paired by seed" in text and "estimate of the difference and" in text
    assert "fewer than 5" not in text
    few = methods_paragraph(both[(both["seed"] < 4) | (both["method"] != "vae-more")]).text
    assert "Rows with fewer than 5 pairs were not tested." in few and "estimate of the difference." in few


def test_several_decoders_and_images_of_unknown_size(store):
    runs = collect(store.uri, "paper")
    runs.loc[runs["dim"] == 20, "decoder"] = "fc"
    text = methods_paragraph(runs).text
    assert "units on MNIST; three" in text and "The convolutional decoder mirrors the encoder." in text
    assert "The fully connected decoder has two hidden layers" in text
    runs.loc[runs["dataset"] == "svhn", ["dataset", "dataset_label"]] = ["mine.npz", "mine"]
    assert "256 units on MNIST." in methods_paragraph(runs).text, "and of the other data set nothing is known"
    assert "a “mlp” decoder" in methods_paragraph(runs.assign(decoder="mlp")).text


def test_the_latex_cites_what_its_bibtex_has_and_no_more(paper):
    cited = {key for keys in re.findall(r"\\cite{(.*?)}", paper.latex) for key in keys.split(",")}
    entries = re.findall(r"^@\w+{([^,]+),", paper.bibtex, re.MULTILINE)
    assert cited == set(entries) and len(entries) == len(set(entries))
    assert {"kim2020recursive", "lecun1998gradient", "netzer2011reading", "burda2016importance"} <= cited
    assert not {"kim2018semi", "liu2015deep", "park2019variational"} & cited
    assert "keywords" not in paper.bibtex and paper.latex.isascii()
    assert paper.latex.count("{") == paper.latex.count("}") and paper.latex.count("$") % 2 == 0


def test_labels_are_escaped_in_latex(store):
    latex = methods_paragraph(collect(store.uri, "hostile")).latex
    assert r"50\% of \textbackslash{}x\_1 \& \{y\}" in latex


def test_every_method_and_data_set_of_the_paper_has_a_reference():
    uses = {use for reference in references() for use in reference.uses}
    known = {f"method:{name}" for name, each in methods.registry().items() if not each.control}
    known |= {f"dataset:{name}" for name in data.names()}
    named = {use for use in uses if ":" in use}
    assert named <= known, "a reference of nothing that exists"
    assert known <= named
    assert all(re.fullmatch(r"[A-Z][\w ëéäü.-]+ (19|20)\d\d", reference.short) for reference in references())


def test_the_bibliography_is_valid_bibtex():
    """Read by a grammar written out here: entries of fields in braces, each with what its kind needs."""
    needed = {
        "inproceedings": {"author", "title", "booktitle", "year"}, "article": {"author", "title", "journal", "year"},
        "techreport": {"author", "title", "institution", "year"}, "misc": {"author", "title", "year"},
    }  # fmt: skip
    for reference in references():
        kind, body = re.fullmatch(r"@(\w+){[\w]+,\n(.*)\n}", reference.bibtex, re.DOTALL).groups()
        fields = re.findall(r"^  (\w+)\s*= {((?:[^{}]|{[^{}]*})*)}(,?)$", body, re.MULTILINE)
        assert needed[kind] <= {name for name, _, _ in fields}, reference.key
        assert [comma for _, _, comma in fields] == [","] * (len(fields) - 1) + [""], reference.key
        assert len(re.findall(r"^  \w", body, re.MULTILINE)) == len(fields), reference.key
