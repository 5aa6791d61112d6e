"""The report of a real MLflow database: its page, its files, its command line."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis.claims import score_claims
from analysis.collect import AmbiguousRuns, CollectError, collect
from analysis.findings import findings
from analysis.gains import gains
from analysis.listing import gain_listing, training_listing
from analysis.report import build_report, main, parser
from tests.analysis.test_collect import Store

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
    """A page's text, tags and links."""

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


def test_page_opens_with_the_findings(demo):
    assert demo.answer == [
        "On digits at dim 10, RME(3) has the best test log-likelihood of all rows (mean 515.8 nats, sd 2.8, over 6 "
        "seeds); RME(3) is 23.2 nats above the VAE (mean difference); no control with equal training was run.",
        "By the one-sided Wilcoxon test, RME(3) against VAE: p = 0.016. "
        "Not ranked, as runs are missing: RME(2) (4 of 6 seeds).",
    ]
    page = Page(demo.index.read_text())
    assert page.words.index(demo.answer[0]) < page.words.index("dim(z)")


def test_page_is_well_formed_and_loads_nothing(demo):
    """By its text; test_page loads it in a browser."""
    text = demo.index.read_text()
    page = Page(text)
    assert page.open == [] and not {"img", "iframe", "object", "base"} & set(page.tags)
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(text) and not re.search(r"url\(|@import", text)
    for link in page.links:
        assert link.startswith(("#", "data:")) or (demo.index.parent / link).is_file()


def test_page_shows_how_it_was_run(demo):
    words = Page(demo.index.read_text()).words
    assert "16 finished runs of the experiment demo" in words
    assert words.count("8.0 h of training") == 2  # 16 x 1800 s; above the tables and in the section
    assert "def5678 (6 runs)" in words and "abc1234 (10 runs)" in words
    assert "PyTorch 2.14.1" in words and "Device cpu" in words
    assert "batch_size 128" in words


def test_page_shows_what_is_missing(demo):
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
        for suffix in ("md", "csv", "tex", "txt")
    } | {
        f"{name}.{suffix}"
        for name in ("claims", "claims-counted", "gains", "trainings", "data-sets", "compute")
        for suffix in ("md", "csv", "tex", "txt")
    } | {"answer.txt", "warnings.txt", "methods.txt", "methods.tex", "references.bib"}
    frame = pd.read_csv(demo.index.parent / "tables" / "test_iwae-digits-conv.csv").set_index("label")
    assert frame.loc["VAE", "mean"] == 492.5 and frame.loc["VAE", "p"] == 1 / 64
    assert frame.loc["RME(2)", ["n", "expected"]].tolist() == [4, 6]
    difference = pd.read_csv(demo.index.parent / "tables" / "test_iwae-minus-vae-digits-conv.csv").set_index("label")
    assert difference.loc["RME(2)", "mean_difference"] == 22 and difference.loc["RME(3)", "mean_difference"] == 23.25


def test_expected_seeds(store, tmp_path):
    report = build_report("demo", tmp_path, store.uri, expected_seeds=10, draw=False)
    assert "n=6/10" in report.index.read_text()


@pytest.fixture(scope="module")
def sweep(store, tmp_path_factory):
    """A sweep of three of the paper's columns, complete except for one run of the third."""
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
    assert statuses["RME is better than its control (p ≤ 0.01)", "MNIST dim 50"] == "held"
    page = complete.index.read_text()
    assert page.count('<tr class="held"') == sum(claim.status == "held" for claim in complete.claims)
    assert "SA(1) n=7/8" in Page(page).words


def test_the_latex_is_well_formed(complete):
    """Checked without TeX: balanced, rows of equal width, ASCII only."""
    texts = [path.read_text() for path in complete.files if path.suffix == ".tex" and path.stem != "methods"]
    assert len(texts) == sum(path.suffix == ".csv" for path in complete.files) == 12
    for text in texts:
        assert text.isascii() and text.count("{") == text.count("}") and text.count("$") % 2 == 0
        begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
        assert begun == ["table", "tabular"] and ended == ["tabular", "table"]
        shape = re.search(r"\\begin{tabular}{(.*)}", text).group(1)
        width = len(re.sub(r"p{.*?}", "p", shape))
        body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {width - 1}


def test_details_of_a_cell(complete):
    packed = re.search(r'id="packed">([^<]+)<', complete.index.read_text()).group(1)
    cells = json.loads(gzip.decompress(base64.b64decode(packed)))["cells"]
    vae = cells["test_iwae-mnist-conv"][0][0]
    assert vae[0] == "n = 8 of 8" and vae[-1] == "chosen restart by seed: 1 1 1 1 1 1 1 1"
    assert any("significantly below the best: p = 0.0039 (8 pairs), Holm's p" in line for line in vae)  # 1 of 2^8
    assert any("Hodges-Lehmann" in line and line.endswith("(96.1%)") for line in vae)


def test_differences_from_the_control_are_in_the_report(complete):
    names = [table.name for table in complete.tables]
    assert names[:3] == [
        "test_iwae-mnist-conv",
        "test_iwae-minus-vae-mnist-conv",
        "test_iwae-minus-control-mnist-conv",
    ]
    table = complete.tables[2]
    assert [row.label for row in table.rows] == ["RME(2)", "BVI-ER1(2)"]  # SA(1) had no more training than the VAE
    # 697.2 + .1 * 2 * seed against 690 + .1 * .5 * seed, whose seeds have the mean 3.5
    assert table.entries[table.rows[0], table.columns[0]].mean == pytest.approx(7.2 + 0.15 * 3.5)
    rows = {tuple(row[:2]): row[2:] for row in complete.gains.rows}
    above_vae, control, control_above, own, _, p, pairs = rows["MNIST d10", "RME(2)"]
    assert above_vae == pytest.approx(12.1 + 0.15 * 3.5) and control_above == pytest.approx(4.9)
    assert own == pytest.approx(7.2 + 0.15 * 3.5) and (control, p, pairs) == ("VAE-more", "0.0039", "8")  # 1 of 2^8
    assert rows["MNIST d10", "SA(1)"][1:3] == ["VAE", 0.0] and rows["MNIST d10", "VAE-more"][1] == "(a control)"


def test_findings_name_rows_with_missing_seeds(sweep):
    runs = collect(sweep.uri, "sweep")
    runs = runs[~((runs["method"] == "rme") & (runs["seed"] > 2))]
    said = findings(runs)[1]
    assert "dim 10, BVI-ER1(2) has the best" in said, "a row with three of eight seeds is not ranked"
    assert said.endswith("Not ranked, as runs are missing: RME(2) (3 of 8 seeds).")
    assert "(mean 705.2 nats, sd 0.5, over 8 of 10 seeds)" in findings(runs, expected_seeds=10)[1]
    few = findings(runs, expected_seeds=3)[1]
    assert few.endswith("Not ranked, as the best row has more seeds (8): RME(2) (3).")
    assert findings(runs, expected_seeds=10)[1].endswith("as runs are missing: RME(2) (3 of 10 seeds).")
    against = "; RME(2) − VAE-more: +7.4 nats (Hodges-Lehmann), too few pairs (3) for a test."
    assert against in findings(runs)[1]


def test_findings_of_several_columns_begin_with_a_summary(store):
    for dim in (10, 20, 50):
        for seed in range(6):
            store.run("wide", "vae", None, seed, 100 + seed, dim=dim)
            store.run("wide", "rme", 2, seed, (110 if dim < 50 else 99) + 2 * seed, dim=dim)
            store.run("wide", "vae-more", None, seed, (90 if dim < 50 else 104) + seed, dim=dim)
    sentences = findings(collect(store.uri, "wide"))
    assert sentences[0] == (
        "RME has the best mean test log-likelihood of all rows in 2 of 3 columns (data set, decoder and dim), VAE-more "
        "in 1; the best is better than the VAE (p ≤ 0.05) in 3 of the 3 columns that test it; the best of the methods "
        "is above its control, the VAE with equal training, in 2 of the 3 columns that have one (p ≤ 0.05 in 2)."
    )
    assert [s.split(",")[0] for s in sentences[1:]] == [f"On MNIST at dim {dim}" for dim in (10, 20, 50)]
    assert "By the one-sided Wilcoxon test, RME(2) against VAE: p = 0.016." in sentences[1]
    # RME(2) - VAE-more at dim 10: 20, 21, ..., 25; all six positive: 1 of 64
    against = "Against the control, RME(2) − VAE-more: +22.5 nats [+20.0, +25.0] (Hodges-Lehmann), p = 0.016."
    assert against in sentences[1]
    assert sentences[3].startswith(
        "On MNIST at dim 50, VAE-more, a control, has the best test log-likelihood of all rows (mean 106.5 nats, sd "
        "1.9, over 6 seeds); RME(2) is 1.5 nats above the VAE; the VAE that trained on at the same rate for as long is "
        "4.0 above it (mean differences). Against the control, RME(2) − VAE-more: -2.5 nats [-5.0, +0.0] "
        "(Hodges-Lehmann), p = 1."
    )


def test_findings_say_that_there_is_no_equal_control(store):
    """A control with another rate, number of epochs or kept epoch is not an equal control."""
    for i, setting in enumerate([{"stage_learning_rate": 5e-4}, {"stage_epochs": 8}, {"keep": "last"}]):
        for seed in range(2):
            store.run(f"unequal-{i}", "vae", None, seed, 100 + seed, keep="best")
            store.run(f"unequal-{i}", "rme", 2, seed, 110 + seed, keep="best")
            store.run(f"unequal-{i}", "vae-more", None, seed, 120 + seed, **{"keep": "best", **setting})
        opening = findings(collect(store.uri, f"unequal-{i}"))[0]
        above = "; RME(2) is 10.0 nats above the VAE (mean difference); no control with equal training was run."
        assert above in opening
        assert "VAE-more, a control, has the best" in opening


def test_from_scratch_the_control_has_the_same_finish(store):
    """SA with a finish is compared with the VAE with that finish, or else with a vae-more with an equal stage."""
    finish = {"finish_epochs": 5, "finish_learning_rate": 1e-6}
    for seed in range(6):
        store.run("finish", "vae", None, seed, 100 + seed, epochs=15)
        store.run("finish", "sa", 1, seed, 110 + seed, **finish)
        store.run("finish", "vae-more", None, seed, 104 + seed, epochs=15)
    staged = findings(collect(store.uri, "finish"))[0]
    assert "SA(1) is 10.0 nats above the VAE; the VAE that trained on at the same rate for as long is 4.0" in staged
    for seed in range(6):
        store.run("finish", "vae", None, seed, 103 + seed, variant="finish", **finish)
    opening, details = findings(collect(store.uri, "finish"))
    assert opening.endswith(
        "; the VAE that was trained at the same rate for as long is 3.0 above it (mean differences)."
    )
    assert details.startswith(
        "Against the control, SA(1) − VAE, finish: +7.0 nats [+7.0, +7.0] (Hodges-Lehmann), p = 0.016."
    )


def test_svi_is_head_room_and_not_a_rival(store):
    tags = {"starts_from": "vae", "updates": "0", "kept_epoch": "0"}
    for seed in range(6):
        store.run("svi", "vae", None, seed, 100 + seed)
        store.run("svi", "vae-more", None, seed, 103 + seed)
        store.run("svi", "rme", 2, seed, 110 + seed)
        store.run("svi", "svi", 50, seed, 150 + seed, tags=tags)
    runs = collect(store.uri, "svi")
    opening = findings(runs)[0]
    assert "SVI(50), untrained, has the best" in opening and "; RME(2) is 10.0 nats above the VAE; the VAE" in opening
    claims = {claim.statement: claim.status for claim in score_claims(runs)}
    assert claims["RME has the highest mean"] == "held"  # among trained rows
    trained = {row[1]: row[2:] for row in training_listing(runs).rows}
    assert trained["SVI(50)"][:3] == ["the VAE at 5e-4", "20 + 0", "not trained"]
    gained = {row[1]: row[2:] for row in gain_listing(runs).rows}
    assert gained["SVI(50)"][:4] == [50.0, "VAE", 0.0, 50.0]


def test_variants_are_rows_of_the_report(store, tmp_path):
    for seed in range(2):
        store.run("ablation", "vae", None, seed, 100 + seed, dataset="digits", label="digits")
        store.run("ablation", "vae-more", None, seed, 105 + seed, dataset="digits", label="digits")
        store.run("ablation", "rme", 2, seed, 101 + seed, dataset="digits", label="digits")
        for kl in (20, 100):
            store.run("ablation", "rme", 2, seed, 103 - kl / 20 + seed, dataset="digits", label="digits", kl_max=kl,
                      variant=f"kl {kl}")  # fmt: skip
    report = build_report("ablation", tmp_path, store.uri, draw=False)
    labels = ["VAE", "RME(2)", "RME(2), kl 20", "RME(2), kl 100", "VAE-more"]
    assert [row.label for row in report.tables[0].rows] == labels
    assert [row[1] for row in report.trainings.rows] == labels
    assert {claim.status for claim in report.claims} == {"not enough runs"}
    words = Page(report.index.read_text()).words
    assert "Against the paper" not in words and "paper's numbers" not in words
    assert "RME(2), kl 20 is 2.0 nats above the VAE; the VAE that trained on" in report.answer[0]
    scores = pd.read_csv(tmp_path / "tables" / "test_iwae-digits-conv.csv").set_index("label")
    assert scores.loc["RME(2), kl 20", "variant"] == "kl 20" and scores["n"].tolist() == [2] * 5
    latex = (tmp_path / "tables" / "test_iwae-digits-conv.tex").read_text()
    assert "RME$^{(2)}$, kl 20 & " in latex


def test_findings_of_few_runs(store):
    store.run("lone", "vae", None, 0, 5.0)
    assert findings(collect(store.uri, "lone"))[0].endswith(
        "over 1 seed, too few for a test); there is nothing yet to compare it with."
    )
    store.run("lone", "sa", 1, 0, 6.0)
    opening, details = findings(collect(store.uri, "lone"))
    assert opening.endswith(
        "SA(1) is 1.0 nats above the VAE, which was trained at the same rate for as long (mean difference)."
    )
    assert details == "Against the control, SA(1) − VAE: +1.0 nats (Hodges-Lehmann), too few pairs (1) for a test."
    store.run("blank", "vae", None, 0)
    assert findings(collect(store.uri, "blank")) == ["On MNIST at dim 10, no run has a test log-likelihood."]


def test_report_of_runs_without_a_score(store, tmp_path):
    store.run("scoreless", "vae", None, 0)
    report = build_report("scoreless", tmp_path, store.uri, draw=False)
    assert "n=0/1" in report.index.read_text() and "nan" not in report.index.read_text()


def test_a_seed_that_failed_with_one_setting_and_finished_with_another(store, tmp_path):
    store.run("tried", "vae", None, 0, status="FAILED", failure="NaN", epochs=10)
    store.run("tried", "vae", None, 0, 2.0, epochs=20)
    words = Page(build_report("tried", tmp_path, store.uri, draw=False).index.read_text()).words
    assert "VAE seed 0 NaN" in words and "fewer scores" not in words


def test_nothing_finished(store, tmp_path):
    with pytest.raises(CollectError, match="'failed' has no finished run in"):
        build_report("failed", tmp_path / "out", store.uri)
    assert not (tmp_path / "out").exists()


def test_where_chooses_between_two_settings(store, tmp_path):
    store.run("two", "vae", None, 0, 1.0, epochs=10)
    store.run("two", "vae", None, 0, 2.0, epochs=20)
    with pytest.raises(AmbiguousRuns):
        build_report("two", tmp_path, store.uri)
    report = build_report("two", tmp_path, store.uri, where={"epochs": "20"}, draw=False)
    assert "those with epochs=20" in Page(report.index.read_text()).words


# ---------------------------------------------------------------------- command line
def test_every_option_has_help():
    assert all(action.help for action in parser()._actions)
    assert "$MLFLOW_TRACKING_URI or sqlite:///mlflow.db" in " ".join(parser().format_help().split())


def test_command_line(store, tmp_path, capsys):
    """In this process; test_evidence starts its own."""
    assert main(["--experiment", "demo", "--tracking-uri", store.uri, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "RME(3)" in said and "515.8 ± 2.8 *" in said and "p = 0.016" in said
    assert "; no control with equal training was run." in said and "How each row was trained" in said
    assert said.rstrip().endswith(f"report: {tmp_path / 'out' / 'index.html'}")
    assert (tmp_path / "out" / "index.html").is_file()
    assert any((tmp_path / "out" / "figures").glob("*.png"))


@pytest.mark.parametrize(("colours", "best"), [("plain", "closest"), ("paper", "red")])
def test_the_colours_are_those_that_were_chosen(store, tmp_path, capsys, colours, best):
    arguments = ["--experiment", "demo", "--tracking-uri", store.uri, "--out", str(tmp_path), "--no-figures"]
    assert main([*arguments, "--colours", colours]) == 0
    (tex,) = (tmp_path / "tables").glob("test_iwae-digits-conv.tex")
    assert rf"\textcolor{{{best}}}{{$\mathbf{{515.8}}" in tex.read_text()
    assert ('class="rme paper-colours"' in (tmp_path / "index.html").read_text()) == (colours == "paper")
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--colours", "red"])
    assert "--colours: invalid choice: 'red' (choose from 'plain', 'paper')" in capsys.readouterr().err


def test_the_tracking_uri_defaults_to_the_environments(store, tmp_path, monkeypatch, capsys):
    arguments = ["--experiment", "demo", "--out", str(tmp_path / "out"), "--no-figures"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert main(arguments) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(arguments) == 2 and "mlflow.db" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///ignored.db")
    assert main([*arguments, "--tracking-uri", store.uri]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "nope"], "no experiment 'nope'"),
        (["--experiment", "failed"], "has no finished run"),
        (["--experiment", "demo", "--where", "seed=77"], "no finished run has that value; valid values are 0, 1, 2"),
        (["--experiment", "demo", "--where", "sede=1"], "no run has that field; did you mean seed? valid fields are"),
        (
            ["--experiment", "demo", "--where", "method=rne"],
            "where method=rne: no finished run has that value; did you mean rme? valid values are",
        ),
        (["--experiment", "demo", "--experiment", "demp"], "no experiment 'demp'"),
        (["--experiment", "failed", "--experiment", "demp"], "no experiment 'demp'"),
        (["--experiment", "demo", "--experiment", "two", "--where", "method=rne"], "demo: where method=rne"),
        (["--experiment", "demo", "--tracking-uri", "sqlite:///none.db"], "none.db (tracking URI"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(store, tmp_path, capsys, arguments, message):
    assert main(["--tracking-uri", store.uri, "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(store, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert main(["--experiment", "demo", "--tracking-uri", store.uri, "--out", str(out)]) == 2
        line = f"analysis.report: --out {out}: {tmp_path / 'file'} is a file; give a folder"
        error = capsys.readouterr().err
        assert error.startswith(line) and error.count("\n") == 1


def test_a_folder_in_place_of_a_file_of_runs(tmp_path, capsys):
    arguments = ["--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert f"{tmp_path} is a folder, not a file of runs; give a file that" in capsys.readouterr().err
    (tmp_path / "runs.csv").write_text("")
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(f"give {tmp_path / 'runs.csv'}\n")


def test_a_store_does_not_go_with_files(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--runs", "a.csv", "--tracking-uri", "foo", "--out", str(tmp_path / "out")])
    assert "--tracking-uri foo with --runs: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--where", "seed"], ["--where", "=3"], ["--expected-seeds", "0"]])
def test_malformed_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["--experiment", "demo", "--out", "x", *arguments])
    assert raised.value.code == 2 and "is not" in capsys.readouterr().err


def test_a_gain_is_measured_from_the_vae_that_the_row_starts_from(store):
    """A variant with its own VAE is compared with that VAE, and with the control that starts from it."""
    of_two = {"stage_epochs": 5, "stage_learning_rate": 1e-5, "keep": "best"}
    for seed in range(6):
        store.run("starts", "vae", None, seed, 100 + seed, learning_rate=5e-4, keep="best")
        store.run("starts", "vae-more", None, seed, 101 + seed, learning_rate=5e-4, **of_two)
        fast = {"learning_rate": 2e-3, "variant": "fast"}
        store.run("starts", "vae", None, seed, 150 + seed, keep="best", **fast)
        store.run("starts", "vae-more", None, seed, 157 + seed, **fast, **of_two)
        store.run("starts", "rme", 2, seed, 160 + seed, **fast, **of_two)
    runs = collect(store.uri, "starts")
    found = {gain.label: gain for gain in gains(runs)}
    rme = found["RME(2), fast"]
    assert (rme.above_vae, rme.control_above_vae) == (10.0, 7.0) and rme.control_label == "VAE-more, fast"
    assert found["VAE-more"].above_vae == 1.0
    opening = findings(runs)[0]
    assert "RME(2), fast is 10.0 nats above VAE, fast, the VAE that it starts from; the VAE" in opening
    trained = {row[1]: row[2] for row in training_listing(runs).rows}
    assert (trained["RME(2), fast"], trained["VAE-more"]) == ("the VAE at 2e-3", "the VAE at 5e-4")


def test_a_gain_and_its_controls_gain_use_the_same_seeds(store):
    """The control lacks the seed that had the largest gain."""
    of_stage = {"stage_epochs": 5, "stage_learning_rate": 1e-5}
    for seed in range(6):
        store.run("same-seeds", "vae", None, seed, 100 + seed)
        store.run("same-seeds", "rme", 2, seed, 110 + seed + 60 * (seed == 5), **of_stage)
        if seed < 5:
            store.run("same-seeds", "vae-more", None, seed, 108 + seed, **of_stage)
    (rme,) = [gain for gain in gains(collect(store.uri, "same-seeds")) if gain.label == "RME(2)"]
    assert (rme.above_vae, rme.control_above_vae, rme.above_control) == (10.0, 8.0, 2.0)
