"""`export` writes the files of a model that is named on the command line."""

from __future__ import annotations

import pytest
import torch

from rme.__main__ import main


@pytest.mark.long(seconds=2)
def test_the_decoder_s_program_decodes_as_the_model(trained, tmp_path, capsys):
    command = ["export", "--model", str(trained.folder), "--format", "torch", "--only", "decoder"]
    assert main([*command, "--out", str(tmp_path / "new")]) == 0
    file, about = capsys.readouterr().out.splitlines()
    assert about == str(tmp_path / "new" / "about.json")
    z = torch.randn(3, trained.result.spec.dim, generator=torch.Generator().manual_seed(0))
    images = torch.export.load(file).module()(z)["images"]
    torch.testing.assert_close(images, trained.model.decode(z, clamp=False), rtol=1e-5, atol=1e-5)


def test_a_file_in_the_folder_s_place_is_refused(trained, capsys):
    assert main(["export", "--model", str(trained.folder), "--out", str(trained.images)]) == 2
    assert capsys.readouterr().err == f"rme export: --out {trained.images}: {trained.images} is not a folder\n"
