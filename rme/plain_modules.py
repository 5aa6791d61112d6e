"""A model's encoder and decoder as plain torch modules for one model, from images in [0, 1] to named outputs.

The networks of `rme.nets` are arrays of B members, with kernels of their own. Here each of them becomes an
`nn.Sequential` of torch's own layers. What a method computes between its networks stays the method's own code, with a
member axis of 1, so that the modules work for every method that `torch.export` can trace.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rme import nets
from rme.distributions import DiagonalGaussian, FullGaussian, Mixture, Posterior, PushForward
from rme.kernels import KERNEL, PADDING, STRIDE
from rme.methods.base import Method
from rme.noise import Noise


class NoPlainModule(ValueError):
    """The model's encoder or decoder cannot be a plain module; the message says why."""


@dataclass(frozen=True)
class Port:
    """An input or output of a module.

    Attributes:
        name: of the argument or of the output.
        shape: of the float32 tensor, where 'N' is the number of images.
        meaning: one phrase, with the units.
    """

    name: str
    shape: tuple[int | str, ...]
    meaning: str


class PlainModule(nn.Module):
    """A part of a model of one member. `forward` takes its inputs in order, and returns its outputs by name."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


# ---------------------------------------------------------------------- networks
def plain_layer(layer: nn.Module) -> nn.Module:
    """The torch layer that computes what this layer of an array of one member does: (N, ...) -> (N, ...).

    NoPlainModule names a layer of an unknown class.
    """
    plain: Any
    kind = type(layer)
    if isinstance(layer, nets.Linear) and kind in (nets.Linear, nets.MaskedLinear):
        plain = nn.Linear(layer.weight.shape[2], layer.weight.shape[1])
    elif isinstance(layer, nets.Conv) and kind is nets.Conv:
        plain = nn.Conv2d(layer.weight.shape[2], layer.weight.shape[1], KERNEL, STRIDE, PADDING)
    elif isinstance(layer, nets.TransposedConv) and kind is nets.TransposedConv:
        inputs, outputs = layer.weight.shape[1:3]
        plain = nn.ConvTranspose2d(inputs, outputs, KERNEL, STRIDE, PADDING, output_padding=layer.extra)
    elif kind is nets.Flatten:
        return nn.Flatten()
    elif isinstance(layer, nets.Unflatten) and kind is nets.Unflatten:
        return nn.Unflatten(1, layer.shape)
    elif kind in (nets.ReLU, nn.ReLU):
        return nn.ReLU()
    elif kind is nets.LeakyReLU:
        return nn.LeakyReLU(0.01)
    else:
        raise NoPlainModule(f"its networks have a layer {kind.__name__}, which has no plain equivalent")
    weight = layer.weight[0] * layer.mask if isinstance(layer, nets.MaskedLinear) else layer.weight[0]
    plain.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    plain.bias = nn.Parameter(layer.bias[0].detach().clone(), requires_grad=False)
    return plain


class PlainNetwork(nn.Module):
    """A `nets.Network` of one member by torch's own layers: (1, N, ...) -> (1, N, ...).

    Iterating yields the array's layers, for a method that reads the weights of single ones, as VLAE does.
    """

    def __init__(self, network: nets.Network) -> None:
        super().__init__()
        self.layers = nn.Sequential(*map(plain_layer, network))
        self._of_array = tuple(network)  # in a tuple, so that they are no submodules

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.squeeze(0)).unsqueeze(0)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._of_array)


def on_cpu(method: Method) -> Method:
    """A copy of a model on the CPU, in float32, without gradients."""
    return copy.deepcopy(method).cpu().float().requires_grad_(False)


def with_plain_networks(method: Method, within: str = "") -> Method:
    """As `on_cpu`, of a model of one member, with each network replaced by a `PlainNetwork`.

    Only those of its module called `within` ('': all). NoPlainModule names a layer without a plain equivalent.
    """
    made = on_cpu(method)
    for module in list(made.get_submodule(within).modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nets.Network):
                setattr(module, name, PlainNetwork(child))
    return made


# ---------------------------------------------------------------------- posteriors
class NoNoise(Noise):
    """Refuses to draw: the inference of a method that draws noise is no function of the images."""

    def __init__(self) -> None:
        super().__init__([])

    def _fill(self, shape: Sequence[int], draw: Any) -> Tensor:
        raise NoPlainModule(
            "its q(z|x) depends on random draws at inference, such as those of gradient steps on each image's ELBO"
        )


def parameters(q: Posterior) -> dict[str, Tensor]:
    """The parameters of one model's q(z|x) by name, without the member axis. NoPlainModule for an unknown class."""
    if type(q) is DiagonalGaussian:
        return {"mean": q.mu[0], "stddev": torch.exp(0.5 * q.logvar[0])}
    if type(q) is Mixture:
        components = q.components
        return {
            "weights": q.log_alpha[0].exp().mT,
            "means": components.mu[0].transpose(0, 1),
            "stddevs": torch.exp(0.5 * components.logvar[0]).transpose(0, 1),
        }
    if type(q) is FullGaussian:
        return {"mean": q.mu[0], "precision_cholesky": q.precision_cholesky[0]}
    known = "DiagonalGaussian, Mixture, FullGaussian, PushForward"
    raise NoPlainModule(f"its posterior is of class {type(q).__name__}; valid are {known}")


class Encoder(PlainModule):
    """Images (N, C, H, W) in [0, 1] -> the parameters of q(z|x), see `parameters`; with a flow, `FlowEncoder`."""

    def __init__(self, method: Method, outputs: tuple[Port, ...]) -> None:
        super().__init__()
        self.method = method
        self.inputs = (images_of(method, "images, pixels / 255, in [0, 1]"),)
        self.outputs = outputs

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return parameters(self.posterior(images))

    def posterior(self, images: Tensor) -> Posterior:
        x = images - self.method.pixel_mean
        return self.method.posterior(x.unsqueeze(0), NoNoise())


class FlowEncoder(Encoder):
    """Images (N, C, H, W) and eps ~ N(0, I), (N, p) -> a draw z of q(z|x), (N, p), and log q(z|x), (N,)."""

    def __init__(self, method: Method, outputs: tuple[Port, ...]) -> None:
        super().__init__(method, outputs)
        self.inputs += (Port("eps", ("N", method.spec.dim), "draws of N(0, 1)"),)

    def forward(self, images: Tensor, eps: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        q = self.posterior(images)
        assert isinstance(q, PushForward)
        z, log_q = q.push(q.base.rsample(eps.unsqueeze(0)))
        return {"z": z[0], "log_q": log_q[0]}


MEANINGS = {
    "mean": "mean of q(z|x)",
    "stddev": "standard deviations of q(z|x), which is a diagonal Gaussian",
    "weights": "weights of the mixture q(z|x)'s components; they sum to 1",
    "means": "means of the components",
    "stddevs": "standard deviations of the components, which are diagonal Gaussians",
    "precision_cholesky": "lower triangular L of q(z|x) = N(mean, (L L')^-1)",
    "z": "one draw of q(z|x) for each image, a deterministic function of images and eps",
    "log_q": "log q(z|x) of that draw, nats",
}
"""What the outputs of an encoder mean."""


def encoder(method: Method) -> Encoder:
    """The encoder of a model of one member. NoPlainModule if its inference is random or its posterior unknown."""
    with torch.no_grad():
        q = method.posterior(torch.zeros(1, 2, *method.decoder.image_shape), NoNoise())
    if type(q) is PushForward:
        p = method.spec.dim
        ports = tuple(Port(name, shape, MEANINGS[name]) for name, shape in (("z", ("N", p)), ("log_q", ("N",))))
        return FlowEncoder(method, ports)
    shapes = {name: ("N", *value.shape[1:]) for name, value in parameters(q).items()}
    return Encoder(method, tuple(Port(name, shape, MEANINGS[name]) for name, shape in shapes.items()))


# ---------------------------------------------------------------------- decoder
class Decoder(PlainModule):
    """Latents z (N, p) -> the mean of p(x|z) as images (N, C, H, W), pixels / 255; it may leave [0, 1] slightly."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.decoder = method.decoder
        self.register_buffer("pixel_mean", method.pixel_mean[0])
        self.inputs = (Port("z", ("N", method.spec.dim), "latents"),)
        self.outputs = (images_of(method, "mean of p(x|z), pixels / 255; not clipped to [0, 1]"),)

    pixel_mean: Tensor

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        return {"images": self.decoder(z.unsqueeze(0))[0] + self.pixel_mean}


def variance(method: Method) -> float:
    """The scalar s^2 of p(x|z) = N(g(z), s^2 I), of pixels / 255."""
    return math.exp(method.decoder.logvar[0].item())


def images_of(method: Method, meaning: str) -> Port:
    return Port("images", ("N", *method.decoder.image_shape), meaning)
