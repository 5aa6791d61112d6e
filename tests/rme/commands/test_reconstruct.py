"""`reconstruct` writes a picture with each row of images above its reconstructions."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rme.__main__ import main
from rme.pictures import GAP


def test_the_originals_are_above_the_reconstructions(trained, tmp_path):
    out = tmp_path / "r.png"
    command = ["reconstruct", "--model", str(trained.folder), "--images", str(trained.images), "--seed", "4"]
    assert main([*command, "--count", "5", "--columns", "3", "--out", str(out)]) == 0
    picture, step = np.asarray(Image.open(out)), 8 + GAP
    originals = np.load(trained.images)["test"][:5]
    made = 255 * trained.model.reconstruct(originals, seed=4).numpy()
    assert picture.shape == (4 * step - GAP, 3 * step - GAP)
    for i in range(5):
        top, left = i // 3 * 2 * step, i % 3 * step
        assert (picture[top : top + 8, left : left + 8] == originals[i, 0]).all()
        below = picture[top + step : top + step + 8, left : left + 8]
        assert np.abs(below - made[i, 0]).max() <= 0.51


def test_fewer_images_than_asked_for_are_all_shown_and_none_is_refused(trained, tmp_path, capsys):
    command = ["reconstruct", "--model", str(trained.folder), "--out", str(tmp_path / "r.png"), "--columns", "99"]
    assert main([*command, "--images", str(trained.images), "--count", "99"]) == 0
    assert np.asarray(Image.open(tmp_path / "r.png")).shape == (2 * (8 + GAP) - GAP, 12 * (8 + GAP) - GAP)
    capsys.readouterr()
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8), np.uint8))
    assert main([*command, "--images", str(tmp_path / "none.npy")]) == 2
    assert "0 images" in capsys.readouterr().err
