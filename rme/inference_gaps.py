"""The approximation gap and the amortisation gap of each image, the two parts of log p(x) - ELBO.

With L[q] the ELBO of the amortised posterior q(z|x), and q* the best member of its family for that image,

    log p(x) - L[q] = (log p(x) - L[q*])  +  (L[q*] - L[q])
                       approximation gap      amortisation gap

(Cremer, Li and Duvenaud 2018, Inference Suboptimality in Variational Autoencoders). The first is due to the limits of
the family, the second to the encoder, which does not reach the family's best member.

The family is the method's own. Its free parameters are a diagonal Gaussian's mean and variances; a mixture's weights,
means and variances; a full Gaussian's mean and precision; a flow's base mean and variances and the tensors it computes
from the image, such as IAF's context, while its weights are frozen. q* is optimised for each image separately, by Adam
on reparametrised draws, from two starts: q, and the z of highest p(x, z) among draws of the prior and of all images' q.
The second is needed because from a poor encoder the optimisation can end in a local optimum: with two latents, one was
a hundred nats below the best.

The optimum is never reached exactly, so the measured amortisation gap is a lower bound of the true one. log p(x) is
estimated by the largest of three IWAE bounds, with q and the two optimised posteriors as proposals; of bounds that are
statistically indistinguishable, the one with the smallest error is used. A bound lies below log p(x) in expectation,
and exceeds it by more than c nats with probability at most exp(-c); so the measured sum of the gaps is one, too.

Shapes: images x (B, N, C, H, W); values per image (B, N), in nats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rme import evaluate, objective, precision
from rme.adam import Adam
from rme.distributions import DiagonalGaussian, Flow, FullGaussian, Mixture, Posterior, PushForward
from rme.noise import Noise

if TYPE_CHECKING:
    from rme.methods.base import Method

STEPS = 300
"""Adam steps of each optimisation."""

RATE = 0.1
"""Adam's initial learning rate, decayed to 0 along half a cosine. Means are in units of q's standard deviations."""

DRAWS = 4
"""Draws per image and step; of a mixture, about this many over all components."""

CANDIDATES = 1024
"""Draws of the prior, and about as many of the images' q, from which the second start is chosen."""

LAST = 0.1
"""Fraction of the steps, at the end, whose gain is reported."""


@dataclass(frozen=True)
class Gaps:
    """Both gaps of each image, and what they are computed from: (B, N) each, nats, float64.

    Attributes:
        log_p: the IWAE bound on log p(x) with the best proposal.
        best_elbo, elbo: L[q*] and L[q].
        log_p_error, best_elbo_error, elbo_error: their Monte-Carlo standard errors.
        log_w: (B, S, N), log p(x, z) - log q(z|x) at S draws of the amortised posterior.
        gain: (B,), the mean ELBO of the optimisation's last tenth of steps minus that of the tenth before, averaged
            over images: close to 0 when it has converged.
    """

    log_p: Tensor
    best_elbo: Tensor
    elbo: Tensor
    log_p_error: Tensor
    best_elbo_error: Tensor
    elbo_error: Tensor
    log_w: Tensor
    gain: Tensor

    @property
    def approximation(self) -> Tensor:
        return self.log_p - self.best_elbo

    @property
    def amortisation(self) -> Tensor:
        return self.best_elbo - self.elbo


@precision.scoring()
def gaps(
    method: Method, x: Tensor, noise: Noise, *, samples: int = 1000, steps: int = STEPS, draws: int = DRAWS
) -> Gaps:
    """Both gaps of each image.

    Args:
        method: B models.
        x: centred images.
        noise: of B members.
        samples: draws S of q, for L[q] and its IWAE bound; each optimised posterior gets half as many.
        steps: of each optimisation.
        draws: per step.

    Raises:
        TypeError: the method's posterior belongs to no family known here.
    """
    with torch.no_grad():
        q = method.posterior(x, noise)
        second_start = moved(q, likeliest(method, x, q, noise))
    optimised = [optimise(method.decoder, x, start, noise, steps=steps, draws=draws) for start in (q, second_start)]
    with torch.no_grad():
        log_w = _log_weights(method, x, q, noise, samples)
        ends = torch.stack([_log_weights(method, x, end, noise, max(2, samples // 2)) for end, _ in optimised])
        # the best posterior is selected on separate draws: on the same ones its ELBO would be biased upwards
        few = max(2, samples // 8)
        selection = [_log_weights(method, x, each, noise, few).mean(1) for each in (q, *(end for end, _ in optimised))]
    elbos, errors = (torch.stack(each) for each in zip(*map(_mean, (log_w, *ends)), strict=True))  # (3, B, N)
    which = torch.stack(selection).argmax(0, keepdim=True)  # 0 is q itself, where no optimisation helped
    bounds, bound_errors = (torch.stack(each) for each in zip(*map(_iwae_bound, (log_w, *ends)), strict=True))
    chosen = _best_bound(bounds, bound_errors)
    part = max(1, int(LAST * steps))
    traces = torch.stack([trace for _, trace in optimised])  # (2, steps, B, N)
    gains = traces[:, -part:].mean(1) - traces[:, -2 * part : -part].mean(1)
    return Gaps(
        log_p=bounds.gather(0, chosen)[0],
        best_elbo=elbos.gather(0, which)[0],
        elbo=elbos[0],
        log_p_error=bound_errors.gather(0, chosen)[0],
        best_elbo_error=errors.gather(0, which)[0],
        elbo_error=errors[0],
        log_w=log_w,
        gain=gains.gather(0, (which - 1).clamp_min(0))[0].mean(-1),
    )


def likeliest(method: Method, x: Tensor, q: Posterior, noise: Noise) -> Tensor:
    """Each image's z of highest p(x, z), among draws of the prior and of all images' q: (B, N, p)."""
    members, n = x.shape[:2]
    of_q = q.sample(noise, max(1, CANDIDATES // n)).flatten(1, 2)
    z = torch.cat([noise.normal((members, CANDIDATES, of_q.shape[-1])), of_q], 1)
    best = evaluate.log_joint_everywhere(method, x, z).argmax(1)  # (B, N)
    return z.gather(1, best.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def moved(q: Posterior, z: Tensor) -> Posterior:
    """q moved so that its mean (a mixture's: of the heaviest component) is at z (B, N, p). TypeError as `Family.of`."""
    if isinstance(q, DiagonalGaussian):
        return DiagonalGaussian(z, q.logvar)
    if isinstance(q, FullGaussian):
        return FullGaussian(z, q.precision_cholesky)
    if isinstance(q, Mixture):
        mu = q.components.mu
        heaviest = q.log_alpha.argmax(-2)[..., None, :, None].expand(*mu.shape[:-3], 1, *mu.shape[-2:])
        return Mixture(
            q.log_alpha, DiagonalGaussian(mu + z.unsqueeze(-3) - mu.gather(-3, heaviest), q.components.logvar)
        )
    if isinstance(q, PushForward):
        for flow in reversed(q.flows):
            z, _ = flow.inverse(z)
        return PushForward(DiagonalGaussian(z, q.base.logvar), q.flows)
    raise _unknown(q)


def optimise(
    decoder: objective.Likelihood,
    x: Tensor,
    q: Posterior,
    noise: Noise,
    *,
    steps: int = STEPS,
    draws: int = DRAWS,
    rate: float = RATE,
) -> tuple[Posterior, Tensor]:
    """Maximise the ELBO of each image over q's family, by Adam starting from q.

    Args:
        decoder: log p(x|z).
        x: centred images.
        q: the start.
        noise: of B members.
        steps: number of Adam steps.
        draws: per step.
        rate: Adam's initial learning rate, decayed to 0 along half a cosine.

    Returns:
        the optimised posterior, without gradients, and the ELBO at each step, averaged over its draws, (steps, B, N).
    """
    family = Family.of(q)
    free = [value.detach().clone().requires_grad_() for value in family.start]
    adam = Adam(free, rate)
    trace = []
    with torch.enable_grad():
        for step in range(steps):
            adam.rate = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            elbo = elbo_to_climb(decoder, x, family, free, noise, draws)
            # the gradient of the sum w.r.t. one image's parameters is that of its own ELBO
            adam.step(torch.autograd.grad(-elbo.sum(), free))
            trace.append(elbo.detach())
    return family.make([value.detach() for value in free]), torch.stack(trace).double()


def elbo_to_climb(
    decoder: objective.Likelihood, x: Tensor, family: Family, free: Sequence[Tensor], noise: Noise, draws: int
) -> Tensor:
    """An unbiased ELBO with an unbiased gradient, (B, N), whose variance vanishes where q is the true posterior.

    log q is evaluated at detached parameters: the omitted term has expectation zero and only adds variance (Roeder, Wu
    and Duvenaud 2017, Sticking the Landing; its section 4 for mixtures). A flow keeps that term, because its log q is
    computed together with its draws.
    """
    q = family.make(free)
    if isinstance(q, PushForward):
        z, log_q = q.sample_with_log_prob(noise, draws)
        return (objective.log_joint(decoder, x, z) - log_q).mean(1)
    detached = family.make([value.detach() for value in free])
    if isinstance(q, Mixture):
        count = q.log_alpha.shape[-2]
        each = max(1, draws // count)
        members, _, n, p = q.components.mu.shape
        z = q.components.unsqueeze(1).rsample(noise.normal((members, each, count, n, p)))
        log_w = objective.log_weights(decoder, x, detached, z.flatten(1, 2)).unflatten(1, (each, count))
        return (q.log_alpha.exp().unsqueeze(1) * log_w).sum(2).mean(1)
    return objective.log_weights(decoder, x, detached, q.sample(noise, draws)).mean(1)


@dataclass(frozen=True)
class Family:
    """A posterior's family: the free parameters of each image, and the map from them to a posterior.

    Attributes:
        start: the parameters of the original posterior. Means and precisions are relative to it, so that one learning
            rate suits all.
        make: from parameters to a posterior; `make(start)` is the original one.
    """

    start: list[Tensor]
    make: Callable[[Sequence[Tensor]], Posterior]

    @classmethod
    def of(cls, q: Posterior) -> Family:
        """The family of q. TypeError names the known classes if q's is not one of them."""
        for kind, family in _FAMILIES.items():
            if isinstance(q, kind):
                return family(q)
        raise _unknown(q)


def _unknown(q: Posterior) -> TypeError:
    known = ", ".join(kind.__name__ for kind in _FAMILIES)
    return TypeError(f"no family is known for a posterior of class {type(q).__name__}; known classes are {known}")


def _diagonal(q: DiagonalGaussian) -> Family:
    deviation = torch.exp(0.5 * q.logvar)

    def make(free: Sequence[Tensor]) -> DiagonalGaussian:
        return DiagonalGaussian(q.mu + deviation * free[0], free[1])

    return Family([torch.zeros_like(q.mu), q.logvar], make)


def _mixture(q: Mixture) -> Family:
    components = _diagonal(q.components)

    def make(free: Sequence[Tensor]) -> Mixture:
        made = components.make(free[1:])
        assert isinstance(made, DiagonalGaussian)
        return Mixture(torch.log_softmax(free[0], -2), made)

    return Family([q.log_alpha, *components.start], make)


def _full(q: FullGaussian) -> Family:
    """mu + L'^-1 d and the precision's factor L M, with d and M free; M is lower triangular, its diagonal exp(.)."""

    def make(free: Sequence[Tensor]) -> FullGaussian:
        step, factor = free
        relative = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())
        return FullGaussian(q.rsample(step), q.precision_cholesky @ relative)

    return Family([torch.zeros_like(q.mu), torch.zeros_like(q.precision_cholesky)], make)


def _push_forward(q: PushForward) -> Family:
    """The base's parameters and every tensor field of the flows; a tensor shared by several flows stays shared.

    These tensors change in units of their root mean square, per image.
    """
    base = _diagonal(q.base)
    places = [_tensors(flow) for flow in q.flows]
    tensors = list({id(value): value for place in places for value in place.values()}.values())
    where = {id(value): i for i, value in enumerate(tensors)}
    units = [value.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6) for value in tensors]

    def make(free: Sequence[Tensor]) -> PushForward:
        made = base.make(free[:2])
        assert isinstance(made, DiagonalGaussian)
        moved = [value + unit * step for value, unit, step in zip(tensors, units, free[2:], strict=True)]
        flows = [
            dataclasses.replace(flow, **{name: moved[where[id(value)]] for name, value in place.items()})  # type: ignore[type-var]
            for flow, place in zip(q.flows, places, strict=True)
        ]
        return PushForward(made, flows)

    return Family([*base.start, *(torch.zeros_like(value) for value in tensors)], make)


def _tensors(flow: Flow) -> dict[str, Tensor]:
    if not dataclasses.is_dataclass(flow):
        raise TypeError(f"the tensors of a {type(flow).__name__} cannot be listed: expected a dataclass")
    fields = {field.name: getattr(flow, field.name) for field in dataclasses.fields(flow)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


_FAMILIES: dict[type[Posterior], Callable] = {
    DiagonalGaussian: _diagonal,
    Mixture: _mixture,
    FullGaussian: _full,
    PushForward: _push_forward,
}


def iwae_by_samples(log_w: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """IWAE (eq. 1) with K samples, for each K in `counts`, from one set of S log-weights (B, S, N).

    The S draws are split into S // K disjoint groups, so the mean over groups is unbiased for each K.

    Returns:
        the means and their Monte-Carlo standard errors (NaN for a single group), each (len(counts), B, N).

    Raises:
        ValueError: a K is outside 1..S.
    """
    samples = log_w.shape[1]
    means, errors = [], []
    for count in counts:
        if not 1 <= count <= samples:
            raise ValueError(f"K={count}: valid values are 1..{samples}, the number of samples")
        groups = samples // count
        each = objective.iwae(log_w[:, : groups * count].double().unflatten(1, (groups, count)))  # (B, groups, N)
        mean, error = _mean(each)
        means.append(mean)
        errors.append(error)
    return torch.stack(means), torch.stack(errors)


def _log_weights(method: Method, x: Tensor, q: Posterior, noise: Noise, samples: int) -> Tensor:
    """log p(x, z) - log q(z|x) at draws z of q: (B, S, N), float64."""
    z, log_q = q.sample_with_log_prob(noise, samples)
    return evaluate.log_joint(method, x, z).double() - log_q


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over samples (B, S, N) and its standard error (NaN for a single sample): each (B, N)."""
    count = values.shape[1]
    mean = values.mean(1)
    return mean, values.std(1) / math.sqrt(count) if count > 1 else torch.full_like(mean, math.nan)


def _iwae_bound(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The IWAE bound from log-weights (B, S, N) and its standard error: each (B, N).

    By the delta method, the error of the log of a mean is the mean's relative error.
    """
    bound = objective.iwae(log_w)
    return bound, torch.exp(log_w - bound.unsqueeze(1)).std(1) / math.sqrt(log_w.shape[1])


def _best_bound(bounds: Tensor, errors: Tensor) -> Tensor:
    """Index of the bound (proposals, B, N) to use, (1, B, N): of those that may be the largest, the least uncertain."""
    largest, where = bounds.max(0, keepdim=True)
    close = bounds + 3 * (errors + errors.gather(0, where)) >= largest
    return errors.masked_fill(~close, math.inf).argmin(0, keepdim=True)
