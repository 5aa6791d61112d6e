"""Does RME's stage break down at a rate because of its mixture, or because it updates encoder and decoder in turn?

From one VAE of a few epochs, the same VAE goes on in two ways: jointly, as `vae-more` does, and in turn, first the
encoder and then the decoder with another draw, as RME's listing does, but without any second component. Writes the
validation ELBO (1,024 images, one draw, nats) along the way as CSV.

    python docs/results/pilot/alternation.py --data-dir data > alternation.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from rme import RunSpec, data, evaluate, noise
from rme.engine import Engine
from rme.methods.base import Update
from rme.methods.vae import VAE
from rme.methods.vae_more import VAEMore
from rme.training import build, train, trained

IMAGES = 1024


class InTurn(VAEMore):
    """The VAE whose encoder and decoder have an update each."""

    def updates(self) -> Sequence[Update]:
        return [
            Update("encoder", list(self.encoder.parameters()), self.loss),
            Update("decoder", list(self.decoder.parameters()), self.loss),
        ]


def go_on(engine: Engine, kind: type[VAE], rate: float, steps: int, every: int) -> None:
    """Train on with that kind's updates; a line every so many steps."""
    engine.method.__class__ = kind
    engine.updates = list(engine.method.updates())
    engine.optimisers = [torch.optim.Adam(update.parameters, lr=rate, fused=True) for update in engine.updates]
    done = 0
    while done < steps:
        for index in engine._next_order().split(engine.spec.batch_size, dim=1):
            if done % every == 0:
                print(f"{kind.__name__},{rate},{done},{elbo(engine):.2f}", flush=True)
            engine.train_step(index)
            done += 1
            if done == steps:
                break
    print(f"{kind.__name__},{rate},{done},{elbo(engine):.2f}", flush=True)


def elbo(engine: Engine) -> float:
    streams = engine._generators(noise.EVALUATE, engine.device)
    scores = evaluate.scores(engine.method, engine.pixels, engine.val_index[:, :IMAGES], samples=1, generators=streams)
    return scores.elbo.mean().item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=3, help="of the VAE that all start from")
    parser.add_argument("--steps", type=int, default=1266, help="that they go on, three epochs")
    parser.add_argument("--every", type=int, default=25, help="steps between lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = data.get("mnist").load(options.data_dir)
    common = {"dataset": "mnist", "dim": 10, "restarts": 1, "epochs": options.epochs, "iwae_samples": 1}
    vae = build([RunSpec(method="vae", **common)], images, "cpu", None)
    train(vae)
    parent = [trained(vae)[0].model]
    print("updates,rate,step,val_elbo")
    for kind, rates in ((VAEMore, (5e-4, 2.5e-4)), (InTurn, (5e-4, 2.5e-4, 1e-4))):
        for rate in rates:
            go_on(build([RunSpec(method="vae-more", **common)], images, "cpu", [parent]), kind, rate, options.steps,
                  options.every)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
