"""A trained model to use: encode, reconstruct, sample, score."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from rme import evaluate, inference_gaps, noise, precision
from rme.device import pick_device
from rme.engine import member_parameters
from rme.evaluate import BLOCK, Scores
from rme.images import ImagesError, as_images
from rme.inference_gaps import Gaps
from rme.methods.base import Method
from rme.model_file import ModelFile
from rme.nets import ImageShape
from rme.noise import Noise
from rme.numbers_given import whole
from rme.posterior import Posterior
from rme.progress import steps

if TYPE_CHECKING:
    from rme.config import RunSpec
    from rme.result import Result


class Model:
    """One trained model, without a member axis: of a run its chosen restart. `rme.load` reads one.

    Images are uint8 in 0..255 or floating point in [0, 1], torch or numpy, (N, H, W), (N, C, H, W) or (N, H, W, C).
    N may be any number: they are processed in blocks. Methods return tensors on the CPU, images as float32
    (N, C, H, W) in [0, 1]. The same seed gives the same numbers on the same kind of device; the seed None is the run's
    own, which gives the numbers that were recorded for the same images.

    Methods that take images raise ImagesError, naming both shapes, for images that do not fit the model.

    Attributes:
        method: the array of one member that computes everything (`rme.methods.Method`).
        test_iwae, test_elbo: as recorded, for each test image of its run, (n,) nats; empty if unknown.
        metrics: of its run as recorded, by their names in MLflow; empty if unknown.
        shown: uint8 (m, C, H, W), some test images of its run; empty if unknown.
        val_elbo: (E,) by epoch of the training, nats per image, NaN where it was not measured; empty if unknown.

    Example:
        >>> spec = rme.RunSpec(method="vae", dataset="digits", dim=10, epochs=1, restarts=1, iwae_samples=2)
        >>> model = rme.load(rme.fit(spec))
        >>> model
        Model digits d10 VAE seed 0, restart 0, on cpu
          images 1 x 28 x 28, 10 latents, 403,222 parameters
          ...
    """

    def __init__(self, file: ModelFile, device: torch.device | str = "cpu") -> None:
        self._file = replace(file, parameters={})  # which the method has
        self.method: Method = file.method.to(torch.device(device))
        self.method.eval()

    @classmethod
    def of(cls, result: Result, restart: int | None = None, device: torch.device | str = "cpu") -> Model:
        """A model of a result: the chosen restart's, or another's. ValueError if the result has no such restart."""
        file = ModelFile.of(result)
        if restart is not None and restart != result.chosen:
            if restart not in range(len(result.models)):
                raise ValueError(f"restart={restart}: valid values are 0 to {len(result.models) - 1}")
            # the test scores are the chosen restart's
            file = replace(
                file, restart=restart, parameters=result.models[restart], test_iwae=torch.empty(0),
                test_elbo=torch.empty(0), val_elbo=result.history_elbo[:, restart], metrics={},
            )  # fmt: skip
        return cls(file, device)

    @classmethod
    def read(cls, path: str | Path, device: torch.device | str = "cpu") -> Model:
        """A model from the file that `save` wrote. Errors as in `ModelFile.read`."""
        return cls(ModelFile.read(Path(path)), device)

    def save(self, file: str | Path) -> None:
        """Write the model to one .safetensors file, atomically; `rme.load` reads it. OSError propagates.

        Example:
            >>> model.save(folder / "model.safetensors")
            >>> rme.load(folder / "model.safetensors").spec == model.spec
            True
        """
        replace(self._file, parameters=self.parameters).write(Path(file))

    # ------------------------------------------------------------------ what it is
    @property
    def spec(self) -> RunSpec:
        """The settings of its run."""
        return self._file.spec

    @property
    def key(self) -> str:
        """Its run's key."""
        return self._file.run_key

    @property
    def restart(self) -> int:
        """Which restart of its run it is."""
        return self._file.restart

    @property
    def stopped(self) -> int | None:
        """After which epoch a callback stopped its training; None if it came to its end."""
        return self._file.stopped

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) of its images."""
        return self.method.decoder.image_shape

    @property
    def device(self) -> torch.device:
        return self.method.pixel_mean.device

    @property
    def parameters(self) -> dict[str, Tensor]:
        """A copy of parameters and buffers, name -> tensor on the CPU, without a member axis."""
        return member_parameters(self.method, 0)

    @property
    def variance(self) -> float:
        """s^2 of p(x|z) = N(g(z), s^2 I), for pixels in [0, 1]."""
        return float(self.method.decoder.logvar.exp())

    @property
    def metrics(self) -> dict[str, float]:
        return self._file.metrics

    @property
    def test_iwae(self) -> Tensor:
        return self._file.test_iwae

    @property
    def test_elbo(self) -> Tensor:
        return self._file.test_elbo

    @property
    def shown(self) -> Tensor:
        return self._file.images

    @property
    def val_elbo(self) -> Tensor:
        return self._file.val_elbo

    def to(self, device: torch.device | str) -> Model:
        """Move the model, in place, to 'cpu', 'cuda', 'cuda:1', 'auto', ...; returns it. ValueError: not available."""
        self.method.to(pick_device(str(device)))
        return self

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.image_shape))
        count = sum(parameter.numel() for parameter in self.method.parameters())
        lines = [
            f"Model {self.spec.run_name}, restart {self.restart}, on {self.device}",
            f"images {shape}, {self.spec.dim} latents, {count:,} parameters",
        ]
        if self.stopped is not None:
            lines.append(f"its training was stopped by a callback after epoch {self.stopped}")
        if len(self.test_iwae):
            scores = f"test IWAE {self.test_iwae.mean():.2f}, ELBO {self.test_elbo.mean():.2f} nats per image"
            lines.append(f"{scores} ({len(self.test_iwae):,} images)")
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        from rme.repr_html import of_model

        return of_model(self)

    # ------------------------------------------------------------------ posteriors and pictures
    def encode(self, images: Any, seed: int | None = None) -> Posterior:
        """q(z|x) of each image. `seed` matters only for methods whose inference is itself random, such as SVI.

        Example:
            >>> q = model.encode(images)
            >>> q.mean.shape, q.stddev.shape, q.sample(3).shape
            (torch.Size([5, 10]), torch.Size([5, 10]), torch.Size([3, 5, 10]))
        """
        stream = self._noise(noise.EVALUATE, seed)
        found, sizes = [], []
        with torch.no_grad(), precision.scoring():
            for block in steps(self._blocks(images), "encoding"):
                found.append(self.method.posterior(self._centred(block), stream))
                sizes.append(block.shape[1])
        return Posterior(found, sizes, self.spec.dim, partial(self._noise, noise.DRAWS))

    def decode(self, z: Any, clamp: bool = True) -> Tensor:
        """The means g(z) of p(x|z), for z (N, p) -> (N, C, H, W) or (S, N, p) -> (S, N, C, H, W).

        Args:
            z: latents, torch or numpy.
            clamp: to [0, 1], as images; False: as the likelihood uses them.

        Raises:
            ValueError: z has another shape.

        Example:
            >>> model.decode(torch.zeros(2, 10)).shape
            torch.Size([2, 1, 28, 28])
        """
        z = torch.as_tensor(z)
        if z.ndim not in (2, 3) or z.shape[-1] != self.spec.dim:
            p = self.spec.dim
            raise ValueError(
                f"z has shape {tuple(z.shape)}; expected (N, {p}) or (S, N, {p}), the model has {p} latents"
            )
        if not z.numel():
            raise ValueError(f"z has shape {tuple(z.shape)}: no latents to decode")
        flat = z.reshape(-1, self.spec.dim).to(self.method.pixel_mean)
        with torch.no_grad(), precision.scoring():
            parts = flat.split(max(1, evaluate.images_at_once(self.method)))
            made = torch.cat([self.method.decoder(part.unsqueeze(0))[0] for part in parts]) + self.method.pixel_mean[0]
        found = made.cpu().unflatten(0, z.shape[:-1])
        return found.clamp(0, 1) if clamp else found

    def reconstruct(self, images: Any, seed: int | None = None) -> Tensor:
        """Each image decoded from one draw of its q(z|x): (N, C, H, W).

        Example:
            >>> model.reconstruct(images).shape
            torch.Size([5, 1, 28, 28])
        """
        return self.decode(self.encode(images, seed).sample(1, seed)[0])

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Decoder means at n draws of the prior, without pixel noise: (n, C, H, W).

        Example:
            >>> model.sample(4, seed=1).shape
            torch.Size([4, 1, 28, 28])
        """
        return self.decode(self._noise(noise.DRAWS, seed).normal((1, whole("n", n, 1), self.spec.dim))[0])

    def interpolate(self, a: Any, b: Any, n: int = 10) -> Tensor:
        """From each image of `a` to that of `b`: decoder means along the line between their posterior means.

        Returns n images for each pair, both ends included: (N, n, C, H, W). ImagesError if `b` has not as many.

        Example:
            >>> model.interpolate(images[:2], images[2:4], 6).shape
            torch.Size([2, 6, 1, 28, 28])
        """
        n = whole("n", n, 2)  # the two ends
        first, last = self.encode(a).mean, self.encode(b).mean
        if len(first) != len(last):
            raise ImagesError(f"a has {len(first)} images, b has {len(last)}; expected as many")
        along = torch.linspace(0, 1, n, dtype=first.dtype).view(1, -1, 1)
        return self.decode(torch.lerp(first.unsqueeze(1), last.unsqueeze(1), along))

    # ------------------------------------------------------------------ scores
    def elbo(self, images: Any, k: int = 100, seed: int | None = None, progress: bool | None = None) -> Tensor:
        """The ELBO of each image from k draws, in nats: (N,) float64.

        Example:
            >>> bool((model.elbo(images, k=50) <= model.log_likelihood(images, k=50)).all())
            True
        """
        return self.scores(images, k, seed, progress).elbo

    @overload
    def log_likelihood(
        self, images: Any, k: int = ..., seed: int | None = ..., gaps: Literal[False] = ..., progress: bool | None = ...
    ) -> Tensor: ...
    @overload
    def log_likelihood(
        self, images: Any, k: int = ..., seed: int | None = ..., *, gaps: Literal[True], progress: bool | None = ...
    ) -> Gaps: ...
    def log_likelihood(
        self, images: Any, k: int = 100, seed: int | None = None, gaps: bool = False, progress: bool | None = None
    ) -> Tensor | Gaps:
        """log p(x) of each image in nats, estimated by IWAE with k draws of q(z|x) (eq. 1): (N,) float64.

        It is a lower bound in expectation, which k tightens. A density of pixels in [0, 1]: usually above 0. An image's
        draws depend on its place among the images: with k the spec's `iwae_samples`, all of the run's test images in
        their order have the recorded `test_iwae`.

        Args:
            images: as for all methods.
            k: draws per image.
            seed: None: the run's own.
            gaps: also optimise each image's posterior, which takes minutes for hundreds of images, and return
                `rme.inference_gaps.Gaps`, without a member axis: a tighter `log_p`, and how much of the distance from
                the ELBO is due to q's family (`approximation`) and to the encoder (`amortisation`).
            progress: whether to show a progress bar; None: only for long ones, in a terminal or a notebook.

        Example:
            >>> model.log_likelihood(images, k=10).shape
            torch.Size([5])
        """
        return self._gaps(images, k, seed, progress) if gaps else self.scores(images, k, seed, progress).iwae

    def scores(self, images: Any, k: int = 100, seed: int | None = None, progress: bool | None = None) -> Scores:
        """Both `log_likelihood` (`iwae`) and `elbo`, (N,) each, from the same draws and so in the time of one.

        Example:
            >>> found = model.scores(images, k=10)
            >>> torch.equal(found.elbo, model.elbo(images, k=10))
            True
        """
        k = whole("k", k, 1)
        generators = self._noise(noise.EVALUATE, seed).generators
        found = []
        for block in steps(self._blocks(images), "scoring", progress):
            index = torch.arange(block.shape[1], device=self.device).unsqueeze(0)
            pixels = block[0].to(self.device)
            found.append(evaluate.scores(self.method, pixels, index, samples=k, generators=generators))
        return Scores(*(torch.cat([getattr(part, name)[0] for part in found]).cpu() for name in ("iwae", "elbo")))

    def _gaps(self, images: Any, k: int, seed: int | None, progress: bool | None) -> Gaps:
        k = whole("k", k, 2)  # for the standard errors
        stream = self._noise(noise.GAPS, seed)
        found, sizes = [], []
        for block in steps(self._blocks(images), "optimising posteriors", progress):
            found.append(inference_gaps.gaps(self.method, self._centred(block), stream, samples=k))
            sizes.append(block.shape[1])
        per_image = {
            field.name: torch.cat([getattr(part, field.name)[0] for part in found], -1).cpu()
            for field in fields(Gaps)
            if field.name != "gain"
        }
        share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        gain = (torch.stack([part.gain[0].cpu().double() for part in found]) * share).sum()
        return Gaps(**per_image, gain=gain)

    # ------------------------------------------------------------------ blocks and streams
    def _blocks(self, images: Any) -> list[Tensor]:
        """The images in blocks of `BLOCK`, each (1, n, C, H, W), on the CPU."""
        tensor = as_images(images, self.image_shape)
        if not len(tensor):
            raise ImagesError("0 images; expected at least 1")
        return [block.unsqueeze(0) for block in tensor.split(BLOCK)]

    def _centred(self, block: Tensor) -> Tensor:
        return self.method.centred(block.to(self.device))

    def _noise(self, purpose: int, seed: int | None = None) -> Noise:
        """A stream at its start: the run's own member's for its seed. ValueError for an impossible seed."""
        seed = self.spec.seed if seed is None else whole("seed", seed, 0)
        generator = noise.generator(seed, self.restart, purpose, self.device)
        return Noise([generator], self.method.pixel_mean.dtype)
