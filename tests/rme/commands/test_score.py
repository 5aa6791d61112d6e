"""`score` writes the scores that were recorded when the model was trained."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from rme.__main__ import main


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_the_recorded_scores_are_written_with_their_mean_and_standard_error(trained, capsys):
    k = trained.result.spec.iwae_samples
    assert main(["score", "--model", str(trained.folder), "--images", str(trained.images), "--k", str(k)]) == 0
    printed = capsys.readouterr()
    rows = rows_of(printed.out)
    assert list(rows[0]) == ["index", "log_likelihood", "elbo"]
    assert [int(row["index"]) for row in rows] == list(range(12))
    assert [float(row["log_likelihood"]) for row in rows] == trained.result.test_iwae.tolist()
    assert [float(row["elbo"]) for row in rows] == trained.result.test_elbo.tolist()
    scores = trained.result.test_iwae.numpy()
    assert f"{scores.mean():.2f} (s.e. {np.std(scores, ddof=1) / np.sqrt(12):.2f})" in printed.err
    assert printed.err.count("\n") == 1


def test_a_key_finds_the_model_on_a_storage_and_a_file_gets_the_csv(trained, tmp_path, capsys):
    spec, out = trained.result.spec, tmp_path / "new" / "scores.csv"
    model = ["--model", spec.key, "--storage", str(trained.folder.parent.parent)]
    images = ["--images", f"{trained.images}:test", "--k", str(spec.iwae_samples)]
    assert main(["score", *model, *images, "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert [float(row["log_likelihood"]) for row in rows_of(out.read_text())] == trained.result.test_iwae.tolist()


def test_a_single_image_has_no_standard_error_and_the_seed_matters(trained, tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.load(trained.images)["test"][:1, 0])
    found = []
    for seed in (5, 5, 6):
        command = ["score", "--model", str(trained.folder), "--images", str(tmp_path / "one.npy"), "--k", "2"]
        assert main([*command, "--seed", str(seed)]) == 0
        printed = capsys.readouterr()
        assert "s.e." not in printed.err
        found.append(printed.out)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--images", "nowhere.npz"], "nowhere.npz"),
        (["--out", "/dev/null/scores.csv"], "/dev/null"),
        (["--out", "."], "a folder"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_an_impossible_value_is_named_in_one_line(trained, capsys, options, named):
    usual = ["--model", str(trained.folder), "--images", str(trained.images)]
    assert main(["score", *usual, *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("rme score: ") and named in printed.err


def test_images_of_another_size_are_refused_with_both_shapes(trained, tmp_path, capsys):
    np.save(tmp_path / "large.npy", np.zeros((2, 28, 28), np.uint8))
    assert main(["score", "--model", str(trained.folder), "--images", str(tmp_path / "large.npy")]) == 2
    error = capsys.readouterr().err
    assert "(2, 28, 28)" in error and "8, 8" in error and error.count("\n") == 1
