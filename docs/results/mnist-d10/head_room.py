"""Head-room of each VAE: gain and cost of optimising each image's posterior separately, SVI of 10, 50 and 200 steps.

    python docs/results/mnist-d10/head_room.py --storage storage --out docs/results/mnist-d10/head_room.csv

For each finished VAE of the study that `--out` lacks, it adds ELBO and IWAE (K = 100) of the first 500 test images,
nats per image, by the VAE and by SVI started from it; the standard error of their IWAE difference over the images; and
the inference time of a batch of 128 images, ms, the median of three passes. Takes minutes per VAE on one core.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from nats import arguments

from rme import data, evaluate, noise
from rme.config import RunSpec
from rme.methods.svi import SVI
from rme.model_file import as_method
from rme.result import Result
from tune.plan import grid
from tune.store.storage import Storage

IMAGES, SAMPLES, REPEATS = 500, 100, 3


def lines(vae: Result, data_dir: Path) -> list[dict[str, object]]:
    """One line for the VAE, and one for each number of SVI steps."""
    spec = vae.spec
    pixels = data.get(spec.dataset).load(data_dir).test[:IMAGES]
    settings = spec.model_dump(exclude={"method", "order", "options"})
    rows = [spec, *(RunSpec(method="svi", order=steps, **settings) for steps in SVI.orders or ())]
    found, of_vae = [], None
    for row in rows:
        model = as_method(row, vae.models[vae.chosen])
        stream = noise.generator(spec.seed, vae.chosen, noise.EVALUATE)
        scores = evaluate.scores(model, pixels, torch.arange(IMAGES)[None], samples=SAMPLES, generators=[stream])
        of_vae = of_vae or scores
        gain = (scores.iwae - of_vae.iwae)[0]
        found.append(
            {"seed": spec.seed, "row": row.method_label, "images": IMAGES, "elbo": scores.elbo.mean().item(),
             "iwae": scores.iwae.mean().item(), "above_vae": gain.mean().item(),
             "above_vae_error": gain.std().item() / IMAGES**0.5,
             "inference_ms": evaluate.inference_ms(model, pixels, stream, repeats=REPEATS)}
        )  # fmt: skip
    return found


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    storage = Storage(options.storage)
    table = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    known = {line["seed"] for line in table}
    for spec in grid.load("mnist-d10").runs:
        if spec.method_label == "VAE" and spec.seed not in known and (result := storage.result(spec)) is not None:
            table += lines(result, options.data_dir)
            pd.DataFrame(sorted(table, key=lambda line: line["seed"])).to_csv(
                options.out, index=False, float_format="%.4f"
            )
            print(spec.run_name, flush=True)


if __name__ == "__main__":
    main()
