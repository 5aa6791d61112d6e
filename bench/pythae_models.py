"""pythae's VAE and VAE_IAF with the networks of Tables 1-3 in them, and the weights of a member of an array.

Importing this needs pythae. Nothing of pythae's is patched: its models take encoder and decoder from their user, and an
epoch is its own trainer's.
"""

from __future__ import annotations

import logging
import tempfile
from typing import Any, cast

import torch
import torch.nn.functional as F
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAE_IAF, VAE_IAF_Config, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import ProgressBarCallback
from torch import Tensor, nn

from bench import plain
from rme import nets
from rme.methods.base import Method
from rme.methods.iaf import GATE_START, IAF


# ---------------------------------------------------------------------- networks
class Encoder(BaseEncoder):
    """One member of a `nets.Encoder`: (N, C, H, W) -> mean and log-variance, each (N, p)."""

    def __init__(self, method: Method, member: int) -> None:
        super().__init__()
        self.layers = plain.ENCODERS[method.decoder.image_shape](method.spec.dim)
        plain.copy_member(cast(nn.Module, method.encoder), member, self.layers)

    def forward(self, x: Tensor) -> ModelOutput:
        mu, logvar = self.layers(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mu, log_covariance=logvar)


class Decoder(BaseDecoder):
    """The mean of one member of a `nets.Decoder`: (N, p) -> (N, C, H, W). pythae fixes the variance at one."""

    def __init__(self, method: Method, member: int) -> None:
        super().__init__()
        self.layers = plain.DECODERS[method.decoder.image_shape](method.spec.dim)
        plain.copy_member(method.decoder.mean, member, self.layers)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


# ---------------------------------------------------------------------- models
def peer(method: Method, member: int = 0) -> Any:
    """pythae's model for a VAE or an IAF, with the weights of one of its members in encoder and decoder.

    VAE_IAF gets as many flows with hidden layers as wide and as many as ours. Its flows are z exp(s) + m where ours
    are gated, and know nothing of x, where ours are conditioned on the encoder's last hidden layer: they are cheaper.
    They keep pythae's own initial weights; `match_flows` makes the two compute the same.
    """
    encoder, decoder = Encoder(method, member), Decoder(method, member)
    sizes = {"input_dim": method.decoder.image_shape, "latent_dim": method.spec.dim, "reconstruction_loss": "mse"}
    device = method.decoder.logvar.device
    if isinstance(method, IAF):
        flows = {"n_made_blocks": len(method.mades), "n_hidden_in_made": 1, "hidden_size": hidden_units(method)}
        return VAE_IAF(VAE_IAF_Config(**sizes, **flows), encoder, decoder).to(device)
    return VAE(VAEConfig(**sizes), encoder, decoder).to(device)


def hidden_units(method: IAF) -> int:
    """Width of the hidden layer of a flow."""
    return _layers(method.mades[0])[0].bias.shape[1]


def extra_parameters(method: Method) -> int:
    """Parameters that ours has for each member and pythae's model has not.

    The decoder's learnt variance, and in each flow the layer that takes in the encoder's features.
    """
    count = 1
    if isinstance(method, IAF):
        count += len(method.mades) * (method.encoder.width + 1) * hidden_units(method)
    return count


@torch.no_grad()
def match_flows(method: IAF, model: Any, member: int = 0) -> None:
    """Change both models so that their flows are the same maps, as far as both can be: for comparing, not for timing.

    Ours lose what pythae's cannot express: the context, and a scale that depends on z. Its flows get our weights and
    masks, in the reversed order of latents that it uses before each flow; after an odd number of flows its latents
    come out reversed, and its decoder reads them so.
    """
    p = method.spec.dim
    for t, (ours, theirs) in enumerate(zip(method.mades, reversed(model.iaf_flow.net), strict=True)):
        inputs, context, outputs = _layers(ours)
        context.weight[member].zero_()
        outputs.weight[member, p:].zero_()
        gate_bias = outputs.bias[member, p:] + GATE_START

        def turned(x: Tensor, axis: int, odd: bool = t % 2 == 0) -> Tensor:
            return x.flip(axis) if odd else x  # the latents are reversed before the first flow, and so on

        hidden, _, last = theirs.net
        hidden.weight.copy_(turned(inputs.weight[member], 1))
        hidden.mask.copy_(turned(inputs.mask, 1))
        hidden.bias.copy_(inputs.bias[member] + context.bias[member])
        shift = 1 - torch.sigmoid(gate_bias)
        means = turned(shift.unsqueeze(-1) * outputs.weight[member, :p], 0)
        last.weight.copy_(torch.cat([means, torch.zeros_like(means)]))
        last.mask.copy_(turned(outputs.mask.unflatten(0, (2, p)), 1).flatten(0, 1))
        last.bias.copy_(torch.cat([turned(shift * outputs.bias[member, :p], 0), turned(F.logsigmoid(gate_bias), 0)]))
    if len(method.mades) % 2:
        first = model.decoder.layers[0]
        first.weight.copy_(first.weight.flip(1))


def _layers(made: nn.Module) -> tuple[nets.MaskedLinear, nets.Linear, nets.MaskedLinear]:
    """A MADE's layers: of the latents, of the context, and of the outputs."""
    inputs, context, outputs = (layer for layer in made.modules() if isinstance(layer, nets.Layer))
    return cast(nets.MaskedLinear, inputs), cast(nets.Linear, context), cast(nets.MaskedLinear, outputs)


# ---------------------------------------------------------------------- training
def trainer(model: Any, images: Tensor, *, rate: float, batch_size: int, device: torch.device) -> BaseTrainer:
    """pythae's own trainer, ready for `train_step(epoch)`, which is one pass over the images (N, C, H, W).

    Its default Adam and data loader, from images in the CPU's memory. Without its progress bar; `train_step` writes no
    checkpoint, and does not make the copy of the best model that `train` makes after each epoch.
    """
    for name in logging.root.manager.loggerDict:
        if name.startswith("pythae."):
            logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:  # its preparations make a folder, which `train_step` does not use
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            learning_rate=rate,
            no_cuda=device.type == "cpu",
        )
        made = BaseTrainer(model, BaseDataset(images.cpu(), torch.zeros(len(images))), training_config=config)
        made.prepare_training()
    handler = made.callback_handler
    handler.callbacks = [c for c in handler.callbacks if not isinstance(c, ProgressBarCallback)]
    return made
