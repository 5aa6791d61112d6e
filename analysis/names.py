"""The names under which MLflow has a sweep's runs: `tune.record` writes them, `analysis` reads them.

Fields of a run are params, under their own names (`rme.RunSpec.params`); what was measured once is a metric; what was
measured by epoch is a metric `train/NAME`; everything else is a tag.
"""

from __future__ import annotations

ROW = ["method", "order", "variant"]
"""The fields that identify a row of a table. A variant names settings that are not the usual ones; NA if none is."""

COLUMN = ["dataset", "dim", "decoder"]
"""The fields that identify a column of a table, whose cells are compared with one another."""

CELL = [*ROW, *COLUMN]
"""The fields that identify one number in a table: runs that share them are repetitions of one another."""

BASELINE, CONTROL = "vae", "vae-more"
"""The VAE, and a finished VAE with an additional stage like the methods that start from one; it is not in the paper."""

CONTROLS = (BASELINE, CONTROL)
"""The methods that can be controls: they have the VAE's posterior and objective."""

METRICS = {
    "val/iwae": "val_iwae",
    "val/elbo": "val_elbo",
    "test/iwae": "test_iwae",
    "test/elbo": "test_elbo",
    "time/inference_ms": "inference_ms",
    "time/inference_ms_sd": "inference_ms_sd",
    "time/ratio_to_vae": "ratio_to_vae",
    "time/ratio_to_vae_sd": "ratio_to_vae_sd",
    "time/train_s": "train_s",
}
"""Metrics of a run, and the columns that they become."""

CURVE = "train/"
"""What the names of metrics by epoch begin with."""

RUN_KEY, CELL_KEY = "run_key", "cell_key"
"""Tags that only a run has, and only a cell's summary; each is found by its key."""

EPOCHS_BEFORE = "epochs_before"
"""Tag of a run that starts from a VAE: that VAE's epochs. The steps of its metrics go on from there: the first epoch of
its own training is step EPOCHS_BEFORE + 1. Runs of earlier versions lack it; their steps are epochs of their own."""

FAILURE = "failure"
"""Tag of a failed run: the reason, in one line."""

TRACEBACK = "traceback.txt"
"""Artifact of a failed run."""

MODEL = "model"
"""Artifact folder of a run: its model, as MLflow knows models (`tune.record.mlmodel`)."""

IMAGES = "images.safetensors"
"""Artifact of a cell: test images, reconstructions and samples of the run that its metadata `run_key` names."""
