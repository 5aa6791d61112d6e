"""The report from a real MLflow database: its page, its files, its command line."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from test_collect import Store

from analysis.collect import AmbiguousRuns, CollectError, collect
from analysis.findings import findings
from analysis.report import build_report, main

REPOSITORY = Path(__file__).resolve().parent.parent
HOSTILE = "<img src=x onerror=alert(1)> & \"'"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory)
    for seed in range(6):
        store.run("demo", "vae", None, seed, 490 + seed, dataset="digits", label="digits", commit="abc1234")
        store.run("demo", "rme", 3, seed, 512 + 1.5 * seed, dataset="digits", label="digits", commit="def5678")
        if seed < 4:
            store.run("demo", "rme", 2, seed, 512 + seed, dataset="digits", label="digits")
    store.run("demo", "rme", 2, 5, dataset="digits", label="digits", status="FAILED", failure=f"lost node {HOSTILE}")
    store.run("demo", "sa", 1, 0, dataset="digits", label="digits", status="FAILED", failure="NaN in epoch 7")
    store.run("hostile", "vae", None, 0, 1.0, label=HOSTILE, method_label=f"{HOSTILE}(9)", extra=HOSTILE)
    store.run("failed", "vae", None, 0, status="FAILED", failure="NaN")
    return store


@pytest.fixture(scope="module")
def demo(store, tmp_path_factory):
    return build_report("demo", tmp_path_factory.mktemp("report"), store.uri, draw=False)


class Page(HTMLParser):
    """Text, tags and whatever would load something from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src", "action")]
        if tag not in ("meta", "img", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        self.text += " " if tag in ("td", "th") else ""

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title", "script"):
            self.text += data

    @property
    def words(self):
        return " ".join(self.text.split())


def test_opens_with_the_answer(demo):
    assert demo.answer == [
        "On digits at dim 10, RME(3) has the best test log-likelihood (mean 515.8 nats, sd 2.8, over 6 seeds); "
        "against VAE the one-sided Wilcoxon test gives p = 0.016."
    ]
    page = Page(demo.index.read_text())
    assert page.words.index(demo.answer[0]) < page.words.index("dim(z)")


def test_page_is_whole_and_loads_nothing(demo):
    """What a browser really does with it is in test_page."""
    text = demo.index.read_text()
    page = Page(text)
    assert page.open == [] and not {"img", "iframe", "object", "base"} & set(page.tags)
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(text) and not re.search(r"url\(|@import", text)
    for link in page.links:
        assert link.startswith(("#", "data:")) or (demo.index.parent / link).is_file()


def test_page_tells_how_it_was_run(demo):
    words = Page(demo.index.read_text()).words
    assert "16 finished runs of the experiment demo" in words
    assert "8.00 hours of training" in words  # 16 x 1800 s
    assert "def5678 (6 runs)" in words and "abc1234 (10 runs)" in words
    assert "PyTorch 2.14.1" in words and "Device cpu" in words
    assert "batch_size 128" in words


def test_page_tells_what_is_missing(demo):
    words = Page(demo.index.read_text()).words
    assert "digits d10 RME(2) n=4/6 4, 5" in words
    assert "digits d10 SA(1) n=0/6 0, 1, 2, 3, 4, 5" in words
    assert "2 failed runs" in words and "SA(1) seed 0 NaN in epoch 7" in words
    assert f"lost node {' '.join(HOSTILE.split())}" in words


def test_names_and_reasons_are_escaped(store, demo, tmp_path):
    assert "<img" not in demo.index.read_text()
    report = build_report("hostile", tmp_path / HOSTILE.replace("/", ""), store.uri, draw=False)
    page = Page(report.index.read_text())
    assert "img" not in page.tags and page.open == [] and page.words.count("onerror") >= 3
    assert all(path.is_file() for path in report.files)


def test_tables_are_written_as_files(demo):
    names = {path.name for path in demo.files}
    assert names == {"index.html"} | {
        f"{table}-digits-conv.{suffix}"
        for table in ("test_iwae", "test_iwae-minus-vae", "val_elbo")
        for suffix in ("md", "csv", "tex")
    } | {f"{name}.{suffix}" for name in ("claims", "claims-counted") for suffix in ("md", "csv", "tex")}
    frame = pd.read_csv(demo.index.parent / "tables" / "test_iwae-digits-conv.csv").set_index("label")
    assert frame.loc["VAE", "mean"] == 492.5 and frame.loc["VAE", "p"] == 1 / 64
    assert frame.loc["RME(2)", ["n", "expected"]].tolist() == [4, 6]
    difference = pd.read_csv(demo.index.parent / "tables" / "test_iwae-minus-vae-digits-conv.csv").set_index("label")
    assert difference.loc["RME(2)", "mean"] == 22 and difference.loc["RME(3)", "mean"] == 23.25


def test_expected_seeds_can_be_told(store, tmp_path):
    report = build_report("demo", tmp_path, store.uri, expected_seeds=10, draw=False)
    assert "n=6/10" in report.index.read_text()


@pytest.fixture(scope="module")
def sweep(store, tmp_path_factory):
    """A complete sweep of two columns of the paper, and a third of which one cell lacks a run."""
    means = {("vae", None): 685.1, ("vae-more", None): 690, ("sa", 1): 688.1, ("rme", 2): 697.2, ("bvi-er1", 2): 694.5}
    for dim in (10, 20, 50):
        for (method, order), mean in means.items():
            for seed in range(8):
                if (method, dim, seed) != ("sa", 50, 7):
                    store.run("sweep", method, order, seed, mean + dim + 0.1 * seed * (order or 0.5), dim=dim)
    return store


@pytest.fixture(scope="module")
def complete(sweep, tmp_path_factory):
    return build_report("sweep", tmp_path_factory.mktemp("sweep"), sweep.uri, draw=False)


def test_the_report_puts_ours_next_to_the_papers(complete):
    words = Page(complete.index.read_text()).words
    assert "695.3 − 685.1 = +10.2 (+5.7 sd)" in words  # 685.1 + 10 + .05 * 3.5, against 685.1 and 1.8
    assert (complete.index.parent / "tables" / "test_iwae-against-paper-mnist-conv.tex").is_file()


def test_the_report_ranks_over_the_complete_columns(complete):
    (ranks,) = complete.ranks
    assert ranks.rows[0][:2] == ["RME(2)", 1.0] and len(ranks.rows) == 5
    assert "over the 2 complete columns" in ranks.caption and "incomplete: mnist d50" in ranks.caption
    words = Page(complete.index.read_text()).words
    assert ranks.caption in words


def test_the_report_lists_the_claims(complete):
    statuses = {(claim.statement, claim.where): claim.status for claim in complete.claims}
    assert statuses["RME has the highest mean", "MNIST dim 20"] == "held"
    assert statuses["RME has the highest mean", "MNIST dim 50"] == "not enough runs"
    assert statuses["RME is better than SA (p ≤ 0.01)", "MNIST dim 50"] == "not enough runs"
    assert statuses["RME is better than VAE-more (p ≤ 0.01)", "MNIST dim 50"] == "held"
    page = complete.index.read_text()
    assert page.count('<tr class="held"') == sum(claim.status == "held" for claim in complete.claims)
    assert "SA(1) n=7/8" in Page(page).words


def test_the_latex_is_well_formed(complete):
    """Where there is no TeX to compile it: closed, of one width, and of characters that every TeX knows."""
    texts = [path.read_text() for path in complete.files if path.suffix == ".tex"]
    assert len(texts) == len(complete.files) // 3
    for text in texts:
        assert text.isascii() and text.count("{") == text.count("}") and text.count("$") % 2 == 0
        begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
        assert begun == ["table", "tabular"] and ended == ["tabular", "table"]
        shape = re.search(r"\\begin{tabular}{(.*)}", text).group(1)
        width = len(re.sub(r"p{.*?}", "p", shape))
        body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {width - 1}


def test_what_hovering_tells(complete):
    packed = re.search(r'id="packed">([^<]+)<', complete.index.read_text()).group(1)
    cells = json.loads(gzip.decompress(base64.b64decode(packed)))["cells"]
    vae = cells["test_iwae-mnist-conv"][0][0]
    assert vae[0] == "n = 8 of 8" and vae[-1] == "restart chosen, by seed: 1 1 1 1 1 1 1 1"
    assert any(line.startswith("p = 0.0039 (8 pairs), Holm's p") for line in vae)  # 1 of 2^8
    assert any("Hodges-Lehmann" in line and line.endswith("(96.1%)") for line in vae)


def test_differences_from_the_control_are_in_the_report(complete):
    names = [table.name for table in complete.tables]
    assert names[:3] == [
        "test_iwae-mnist-conv",
        "test_iwae-minus-vae-mnist-conv",
        "test_iwae-minus-vae-more-mnist-conv",
    ]


def test_a_best_mean_over_too_few_seeds_says_so(sweep):
    runs = collect(sweep.uri, "sweep")
    runs = runs[~((runs["method"] == "rme") & (runs["seed"] > 2))]
    assert "over 3 of 8 seeds" in findings(runs)[1] and "no test is possible (3 pairs cannot give" in findings(runs)[1]


def test_several_columns_begin_with_a_summary(store):
    for dim in (10, 20, 50):
        for seed in range(6):
            store.run("wide", "vae", None, seed, 100 + seed, dim=dim)
            store.run("wide", "rme", 2, seed, (110 if dim < 50 else 99) + 2 * seed, dim=dim)
            store.run("wide", "vae-more", None, seed, 90 + seed, dim=dim)
    sentences = findings(collect(store.uri, "wide"))
    assert sentences[0] == (
        "RME has the best mean test log-likelihood in 3 of 3 columns (data set, decoder and dim). "
        "The best is better than the VAE (p ≤ 0.05) in 2 of the 3 columns that test it."
    )
    assert [s.split(",")[0] for s in sentences[1:]] == [f"On MNIST at dim {dim}" for dim in (10, 20, 50)]
    assert "against VAE the one-sided" in sentences[1] and "against VAE-more the one-sided" in sentences[1]
    # RME(2) - VAE at dim 50: -1, 0, 1, 2, 3, 4: the zero is left out, W+ = 1.5 + 3 + 4 + 5, 2 of 32 patterns reach it
    assert sentences[3].endswith("It is not told apart (p > 0.05) from VAE.")
    assert "against VAE the one-sided Wilcoxon test gives p = 0.094" in sentences[3]


def test_findings_without_much_to_say(store):
    store.run("lone", "vae", None, 0, 5.0)
    assert findings(collect(store.uri, "lone"))[0].endswith("over 1 seed); there is nothing yet to compare it with.")
    store.run("lone", "sa", 1, 0, 6.0)
    assert "against VAE no test is possible (1 pair cannot give p ≤ 0.05" in findings(collect(store.uri, "lone"))[0]
    store.run("blank", "vae", None, 0)
    assert findings(collect(store.uri, "blank")) == ["On MNIST at dim 10, no run has a test log-likelihood."]


def test_report_of_runs_without_a_score(store, tmp_path):
    store.run("scoreless", "vae", None, 0)
    report = build_report("scoreless", tmp_path, store.uri)
    assert "n=0/1" in report.index.read_text() and "nan" not in report.index.read_text()


def test_a_seed_that_failed_with_one_setting_and_finished_with_another(store, tmp_path):
    store.run("tried", "vae", None, 0, status="FAILED", failure="NaN", epochs=10)
    store.run("tried", "vae", None, 0, 2.0, epochs=20)
    words = Page(build_report("tried", tmp_path, store.uri).index.read_text()).words
    assert "VAE seed 0 NaN" in words and "fewer scores" not in words


def test_nothing_finished(store, tmp_path):
    with pytest.raises(CollectError, match="'failed' has no finished run in"):
        build_report("failed", tmp_path / "out", store.uri)
    assert not (tmp_path / "out").exists()


def test_two_settings_are_chosen_from(store, tmp_path):
    store.run("two", "vae", None, 0, 1.0, epochs=10)
    store.run("two", "vae", None, 0, 2.0, epochs=20)
    with pytest.raises(AmbiguousRuns):
        build_report("two", tmp_path, store.uri)
    report = build_report("two", tmp_path, store.uri, where={"epochs": "20"})
    assert "those with epochs=20" in Page(report.index.read_text()).words


# ---------------------------------------------------------------------- command line
def test_command_line(store, tmp_path):
    command = [sys.executable, "-m", "analysis.report", "--experiment", "demo", "--tracking-uri", store.uri]
    done = subprocess.run([*command, "--out", tmp_path / "out"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "RME(3)" in done.stdout and "515.8 ± 2.8 *" in done.stdout and "p = 0.016" in done.stdout
    assert done.stdout.rstrip().endswith(f"report: {tmp_path / 'out' / 'index.html'}")
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "nope"], "no experiment 'nope'"),
        (["--experiment", "failed"], "has no finished run"),
        (["--experiment", "demo", "--where", "seed=77"], "has no finished run that matches"),
        (["--experiment", "demo", "--where", "sede=1"], "no run has that field"),
        (["--experiment", "demo", "--tracking-uri", "sqlite:///none.db"], "no MLflow database at none.db"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(store, tmp_path, capsys, arguments, message):
    assert main(["--tracking-uri", store.uri, "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(store, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--experiment", "demo", "--tracking-uri", store.uri, "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--where", "seed"], ["--where", "=3"], ["--expected-seeds", "0"]])
def test_malformed_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--experiment", "demo", "--out", "x", *arguments])
    assert raised.value.code == 2 and "is not" in capsys.readouterr().err
