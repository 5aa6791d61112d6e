"""Evaluation of trained models: IWAE and ELBO per image, diagnostics, inference time, and pictures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rme import nets, objective, precision
from rme.cuda_graph import WARM_UP, Graphed
from rme.distributions import gaussian_log_prob, standard_normal_log_prob
from rme.noise import Noise

if TYPE_CHECKING:
    from rme.methods.base import Method

BLOCK = 64
"""Images whose noise is drawn at once. Fixed, so that a score does not depend on the available memory."""

CPU_CHUNK_BYTES = 32 << 20
"""Activations of a decoder pass on a CPU: more is no faster (128 MB took as long, 4 MB a fifth longer)."""

GPU_CHUNK_BYTES = 1 << 30
"""The same on a GPU: more is no faster, and would leave less to other processes that share the GPU."""


@dataclass(frozen=True)
class Scores:
    """Estimates of log p(x) per image in nats, (B, n), or (n,) of one model: elbo <= iwae <= log p(x) on average."""

    iwae: Tensor
    elbo: Tensor


@torch.no_grad()
@precision.scoring()
def scores(
    method: Method, pixels: Tensor, index: Tensor, *, samples: int, generators: Sequence[torch.Generator]
) -> Scores:
    """IWAE (eq. 1) and ELBO from the same `samples` i.i.d. draws of q(z|x) per image.

    Args:
        method: B models.
        pixels: uint8 images (n, C, H, W).
        index: which of them each member is scored on, (B, n).
        samples: K.
        generators: one per member, the only source of randomness.
    """
    noise = Noise(generators, method.pixel_mean.dtype)
    parts = []
    for block in index.split(BLOCK, dim=1):
        x = method.centred(pixels[block])
        z, log_q = method.posterior(x, noise).sample_with_log_prob(noise, samples)
        log_w = log_joint(method, x, z) - log_q
        parts.append(Scores(objective.iwae(log_w).double(), log_w.double().mean(1)))
    return Scores(torch.cat([p.iwae for p in parts], 1), torch.cat([p.elbo for p in parts], 1))


@torch.no_grad()
@precision.scoring()
def diagnostics(
    method: Method, pixels: Tensor, index: Tensor, *, generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """The method's diagnostics by name, averaged over images: (B,) each. Arguments as for `scores`."""
    noise = Noise(generators, method.pixel_mean.dtype)
    totals: dict[str, Tensor] = {}
    for block in index.split(BLOCK, dim=1):
        for name, values in method.diagnostics(method.centred(pixels[block]), noise).items():
            totals[name] = totals.get(name, 0) + values.double().sum(-1)
    return {name: total / index.shape[1] for name, total in totals.items()}


def log_joint(method: Method, x: Tensor, z: Tensor) -> Tensor:
    """`objective.log_joint` at samples z (B, S, N, p), in chunks that fit into memory: (B, S, N)."""
    size = max(1, images_at_once(method) // x.shape[:2].numel())
    return torch.cat([objective.log_joint(method.decoder, x, part) for part in z.split(size, dim=1)], 1)


def log_joint_everywhere(method: Method, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) of every image at the same G points z (B, G, p): (B, G, N). Each point is decoded once."""
    parts = []
    for part in z.split(images_at_once(method), 1):
        squared = torch.cdist(method.decoder(part).flatten(2), x.flatten(2)).square()
        parts.append(gaussian_log_prob(squared, method.decoder.logvar.view(-1, 1, 1), x[0, 0].numel()))
    return torch.cat(parts, 1) + standard_normal_log_prob(z).unsqueeze(-1)


def images_at_once(method: Method) -> int:
    """Images per decoder pass that fit into `CPU_CHUNK_BYTES`, or `_gpu_chunk_bytes` on a GPU; at least 1."""
    weight = method.decoder.logvar
    budget = _gpu_chunk_bytes(weight.device) if weight.device.type == "cuda" else CPU_CHUNK_BYTES
    image = weight.element_size() * decoder_activations(
        method.decoder.image_shape, method.spec.dim, method.spec.decoder
    )
    return max(1, budget // image)


def _gpu_chunk_bytes(device: torch.device) -> int:
    """A quarter of the free memory, rounded down to a power of two so that it seldom changes; at most GPU_CHUNK_BYTES.

    Memory that torch has reserved but does not use counts as free.
    """
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    quarter = max(1, (torch.cuda.mem_get_info(device)[0] + unused) // 4)
    return min(GPU_CHUNK_BYTES, 2 ** (quarter.bit_length() - 1))


@lru_cache
def decoder_activations(image_shape: nets.ImageShape, dim: int, kind: str) -> int:
    """Entries in memory at once in a decoder pass of one image: the largest layer's input and output, times two."""
    with torch.no_grad(), torch.device("cpu"):  # "meta" would compute nothing, but import PyTorch's compiler
        h = torch.zeros(1, 1, dim)
        largest = 0
        for layer in nets.Decoder(1, dim, image_shape, kind).mean:
            before, h = h, layer(h)
            largest = max(largest, before.numel() + h.numel())
    return 2 * largest


def inference_ms(
    method: Method, pixels: Tensor, generator: torch.Generator, *, batch_size: int = 128, repeats: int = 5
) -> float:
    """Milliseconds of inference per batch (section 2.1): the mean over all batches, in the median repeat.

    The images are centred beforehand, so that only inference is timed.
    """
    batches = [method.centred(part.unsqueeze(0)) for part in pixels.split(batch_size)]
    inference = Inference(method, [generator])
    inference.warm_up(batches)
    return statistics.median(inference.ms(batches) for _ in range(repeats))


class Inference:
    """Inference to be timed: q(z|x) and one draw from it. The draw is included because a flow is computed by drawing.

    On a GPU it is a CUDA graph, like a training step; otherwise kernel launches would dominate the time.

    Args:
        method: an array of one model.
        generators: its generator.
    """

    def __init__(self, method: Method, generators: Sequence[torch.Generator]) -> None:
        noise = Noise(generators, method.pixel_mean.dtype)

        def infer(x: Tensor) -> Tensor:
            return method.posterior(x, noise).sample(noise, 1)

        on_gpu = method.pixel_mean.device.type == "cuda"
        self.infer: Callable[[Tensor], Tensor] = Graphed(infer, noise.generators) if on_gpu else infer

    def warm_up(self, batches: Sequence[Tensor]) -> None:
        """Choose kernels and capture graphs, for a full batch and for the last one."""
        self.ms([batches[0], batches[-1]] * (WARM_UP + 1 if isinstance(self.infer, Graphed) else 1))

    @torch.no_grad()
    @precision.scoring()
    def ms(self, batches: Sequence[Tensor]) -> float:
        """Milliseconds per batch of centred images (1, N, C, H, W), averaged over `batches`."""
        device = batches[0].device
        synchronise(device)
        began = time.perf_counter()
        for x in batches:
            self.infer(x)
        synchronise(device)
        return (time.perf_counter() - began) / len(batches) * 1e3


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all work; needed before reading a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def reconstructions(method: Method, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, C, H, W), then their reconstructions from one draw of q(z|x): uint8 (2, n, C, H, W)."""
    x = method.centred(pixels.unsqueeze(0))
    noise = Noise([generator], x.dtype)
    z = method.posterior(x, noise).sample(noise, 1)[:, 0]
    return torch.stack([pixels, _as_pixels(method, method.decoder(z))])


@torch.no_grad()
def prior_samples(method: Method, count: int, generator: torch.Generator) -> Tensor:
    """Decoder means g(z) at draws z of the prior: uint8 (count, C, H, W)."""
    noise = Noise([generator], method.pixel_mean.dtype)
    return _as_pixels(method, method.decoder(noise.normal((1, count, method.spec.dim))))


def _as_pixels(method: Method, means: Tensor) -> Tensor:
    return (means + method.pixel_mean.unsqueeze(1)).squeeze(0).mul(255).round().clamp(0, 255).to(torch.uint8)
