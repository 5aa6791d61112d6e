"""pythae's VAE and VAE_IAF with the networks of Tables 1-3 and the weights of a member of an array.

Importing this needs pythae, which is not patched: its models accept a user's encoder and decoder, and its own trainer
runs the epochs.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from typing import Any, cast

import torch
import torch.nn.functional as F
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAE_IAF, VAE_IAF_Config, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.samplers import NormalSampler
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
    """pythae's model for a VAE or an IAF, with one member's weights in encoder and decoder.

    VAE_IAF has as many flows as ours, each with one hidden layer of the same width. Its flows are cheaper: they are
    z exp(s) + m where ours are gated, and independent of x where ours are conditioned on the encoder's last hidden
    layer. They keep pythae's initial weights; `match_flows` makes both compute the same.
    """
    encoder, decoder = Encoder(method, member), Decoder(method, member)
    sizes = {"input_dim": method.decoder.image_shape, "latent_dim": method.spec.dim, "reconstruction_loss": "mse"}
    device = method.decoder.logvar.device
    if isinstance(method, IAF):
        flows = {"n_made_blocks": len(method.mades), "n_hidden_in_made": 1, "hidden_size": hidden_units(method)}
        return VAE_IAF(VAE_IAF_Config(**sizes, **flows), encoder, decoder).to(device)
    return VAE(VAEConfig(**sizes), encoder, decoder).to(device)


@torch.no_grad()
def in_units(model: Any, size: float) -> Any:
    """A copy of pythae's VAE for images in units of `size`: x / size instead of x, decoded to g(z) / size.

    Its decoder's fixed variance of one is one square unit, so size^2 of the original pixels, and its log p(x / size)
    is the log p(x) of N(g(z), size^2 I) plus D log size.
    """
    model = copy.deepcopy(model)
    model.encoder.layers[0].weight.mul_(size)
    last = model.decoder.layers[-1]
    last.weight.div_(size)
    last.bias.div_(size)
    return model


def samples(model: Any, count: int) -> Tensor:
    """Decoder means at `count` draws of the prior, by pythae's sampler: (count, C, H, W)."""
    return NormalSampler(model).sample(num_samples=count)


def hidden_units(method: IAF) -> int:
    """Width of a flow's hidden layer."""
    return _layers(method.mades[0])[0].bias.shape[1]


def extra_parameters(method: Method) -> int:
    """Number of parameters of a member without a counterpart in pythae's model.

    These are the decoder's learnt variance, and in each flow the layer that takes the encoder's features.
    """
    count = 1
    if isinstance(method, IAF):
        count += len(method.mades) * (method.encoder.width + 1) * hidden_units(method)
    return count


@torch.no_grad()
def match_flows(method: IAF, model: Any, member: int = 0) -> None:
    """Change both models so that their flows compute the same map; for comparing, not for timing.

    Ours lose what pythae's cannot express: the context, and a scale that depends on z. pythae's flows get our weights
    and masks, with the latents reversed, because pythae reverses them before each flow. After an odd number of flows
    its latents end up reversed, so the input weights of its decoder are reversed too.
    """
    p = method.spec.dim
    for t, (ours, theirs) in enumerate(zip(method.mades, reversed(model.iaf_flow.net), strict=True)):
        inputs, context, outputs = _layers(ours)
        context.weight[member].zero_()
        outputs.weight[member, p:].zero_()
        gate_bias = outputs.bias[member, p:] + GATE_START

        def flip(x: Tensor, axis: int, reverse: bool = t % 2 == 0) -> Tensor:
            return x.flip(axis) if reverse else x  # pythae reverses before each flow, so in every second one

        hidden, _, last = theirs.net
        hidden.weight.copy_(flip(inputs.weight[member], 1))
        hidden.mask.copy_(flip(inputs.mask, 1))
        hidden.bias.copy_(inputs.bias[member] + context.bias[member])
        shift = 1 - torch.sigmoid(gate_bias)
        means = flip(shift.unsqueeze(-1) * outputs.weight[member, :p], 0)
        last.weight.copy_(torch.cat([means, torch.zeros_like(means)]))
        last.mask.copy_(flip(outputs.mask.unflatten(0, (2, p)), 1).flatten(0, 1))
        last.bias.copy_(torch.cat([flip(shift * outputs.bias[member, :p], 0), flip(F.logsigmoid(gate_bias), 0)]))
    if len(method.mades) % 2:
        first = model.decoder.layers[0]
        first.weight.copy_(first.weight.flip(1))


def _layers(made: nn.Module) -> tuple[nets.MaskedLinear, nets.Linear, nets.MaskedLinear]:
    """A MADE's layers for latents, context and outputs."""
    inputs, context, outputs = (layer for layer in made.modules() if isinstance(layer, nets.Layer))
    return cast(nets.MaskedLinear, inputs), cast(nets.Linear, context), cast(nets.MaskedLinear, outputs)


# ---------------------------------------------------------------------- training
def trainer(model: Any, images: Tensor, *, rate: float, batch_size: int, device: torch.device) -> BaseTrainer:
    """pythae's trainer, ready for `train_step(epoch)`, one pass over the images (N, C, H, W).

    It has its default Adam and data loader, with images in CPU memory, and no progress bar. Unlike `train`,
    `train_step` writes no checkpoint and does not copy the best model after each epoch.
    """
    for name in logging.root.manager.loggerDict:
        if name.startswith("pythae."):
            logging.getLogger(name).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:  # created by prepare_training, not used by `train_step`
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
