"""What a posterior sought for each image by itself is worth, and costs: SVI of 10, 50 and 200 steps from each VAE.

    python docs/results/mnist-d10/head_room.py --storage storage --out docs/results/mnist-d10/head_room.csv

For each VAE of the study that the storage has and the file has not: ELBO and IWAE (K = 100) of the first 500 test
images, nats per image, by the VAE and by SVI from it, with the standard error of their difference over the images; and
the inference time of a batch of 128 of them, ms, the median of three passes. Minutes a VAE on one core.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from nats import arguments

from rme import data, evaluate, noise
from rme.config import RunSpec
from rme.methods.svi import SVI
from rme.result import Result, as_method
from tune.plan import grid
from tune.store.storage import Storage

IMAGES, SAMPLES, REPEATS = 500, 100, 3


def lines(vae: Result, data_dir: Path) -> list[dict[str, object]]:
    """The VAE's own line, and one for each number of SVI's steps."""
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
    there = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    known = {line["seed"] for line in there}
    for spec in grid.load("mnist-d10").runs:
        if spec.method_label == "VAE" and spec.seed not in known and (result := storage.result(spec)) is not None:
            there += lines(result, options.data_dir)
            pd.DataFrame(sorted(there, key=lambda line: line["seed"])).to_csv(
                options.out, index=False, float_format="%.4f"
            )
            print(spec.run_name, flush=True)


if __name__ == "__main__":
    main()
