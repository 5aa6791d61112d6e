"""`sample` writes a picture with as many decoded draws as asked for."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rme.__main__ import main
from rme.pictures import GAP


def test_the_picture_has_the_model_s_samples_row_by_row(trained, tmp_path, capsys):
    out = tmp_path / "new" / "samples.png"
    command = ["sample", "--model", str(trained.folder), "--count", "5", "--columns", "3", "--seed", "4"]
    assert main([*command, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    picture = np.asarray(Image.open(out))
    assert picture.shape == (8 + GAP + 8, 3 * 8 + 2 * GAP)
    images = trained.model.sample(5, seed=4)
    step = 8 + GAP
    for i, image in enumerate(images):
        top, left = i // 3 * step, i % 3 * step
        assert np.abs(picture[top : top + 8, left : left + 8] - 255 * image[0].numpy()).max() <= 0.51
    assert (picture[step:, 2 * step :] == 255).all()  # there is no sixth


def test_an_out_that_is_no_png_file_is_refused(trained, tmp_path, capsys):
    assert main(["sample", "--model", str(trained.folder), "--out", str(tmp_path / "a.jpg")]) == 2
    assert "a.jpg: the file's name must end in .png" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_out_that_is_a_folder_is_refused(trained, tmp_path, capsys):
    assert main(["sample", "--model", str(trained.folder), "--out", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
