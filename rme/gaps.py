"""Where the ELBO's distance from log p(x) comes from: the approximation gap and the amortisation gap of each image.

With L[q] the ELBO of the amortised posterior q(z|x), and q* the best member of its family for that image,

    log p(x) - L[q] = (log p(x) - L[q*])  +  (L[q*] - L[q])
                       approximation gap      amortisation gap

(Cremer, Li and Duvenaud 2018, Inference Suboptimality in Variational Autoencoders). The first says what the family
cannot do, the second what the encoder does not do with it.

The family is the method's own: a diagonal Gaussian's mean and variances; a mixture's weights, means and variances; a
full Gaussian's mean and precision; of a flow the base's mean and variances and what the flow takes from the image, such
as IAF's context, while its weights stay. q* is sought for each image by itself, by Adam on reparametrised draws from
q on. As no search finds the very best, the amortisation gap is at least what is found. log p(x) is an IWAE bound whose
proposal is half q, half q*: where one of them has tails that are too light, the other's draws keep the weights bounded
(Owen and Zhou 2000, Safe and Effective Importance Sampling). In expectation it lies below log p(x).

Shapes: images x (B, N, C, H, W); numbers for each image (B, N), in nats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rme import evaluate, objective, precision
from rme.distributions import DiagonalGaussian, Flow, FullGaussian, Mixture, Posterior, PushForward
from rme.methods.base import Method
from rme.noise import Noise

STEPS = 300
"""Steps of Adam from the amortised posterior to the best of its family."""

RATE = 0.1
"""Adam's rate at the start, from where it falls to nothing along a cosine. Means move in units of q's deviations."""

DRAWS = 4
"""Draws for each image and step; of a mixture, from each component as many as come to about this."""

LAST = 0.1
"""Part of the steps at the end whose gain is reported."""


@dataclass(frozen=True)
class Gaps:
    """The two gaps of each image, each (B, N) in nats, float64.

    Attributes:
        log_p: the IWAE bound on log p(x), of 2 S draws.
        best_elbo, elbo: L[q*] and L[q].
        log_p_error, best_elbo_error, elbo_error: their Monte-Carlo standard errors.
        log_w: (B, S, N), log p(x, z) - log q(z|x) at S draws of the amortised posterior.
        gain: (B,), what the last tenth of the search gained over the tenth before it, a mean over images: near nothing
            when it has converged.
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
        x: images as the models see them.
        noise: of B members.
        samples: draws S of q and as many of q*, for L[q], L[q*] and, together, log p(x).
        steps: of the search for q*.
        draws: in each of them.

    Raises:
        TypeError: the method's posterior is of a kind whose parameters are not known here.
    """
    with torch.no_grad():
        q = method.posterior(x, noise)
    best, trace = optimise(method.decoder, x, q, noise, steps=steps, draws=draws)
    with torch.no_grad():
        z, log_q = q.sample_with_log_prob(noise, samples)
        best_z, best_log_q = best.sample_with_log_prob(noise, samples)
        log_joint, best_log_joint = (evaluate.log_joint(method, x, each).double() for each in (z, best_z))
        log_w, best_log_w = log_joint - log_q, best_log_joint - best_log_q
        proposal = torch.cat(
            [torch.logaddexp(log_q, best.log_prob(z)), torch.logaddexp(best_log_q, q.log_prob(best_z))], 1
        )
        log_p, log_p_error = _evidence(torch.cat([log_joint, best_log_joint], 1) - (proposal - math.log(2)))
        # the search is noisy: where it has not helped, which other draws decide, the best found is where it began
        few = max(2, samples // 4)
        before, after = (_elbo(method, x, each, noise, few) for each in (q, best))
        best_log_w = torch.where((after > before).unsqueeze(1), best_log_w, log_w)
    elbo, elbo_error = _mean(log_w)
    best_elbo, best_elbo_error = _mean(best_log_w)
    part = max(1, int(LAST * steps))
    gain = trace[-part:].mean((0, 2)) - trace[-2 * part : -part].mean((0, 2))
    return Gaps(log_p, best_elbo, elbo, log_p_error, best_elbo_error, elbo_error, log_w, gain)


def optimise(
    decoder: objective.Likelihood, x: Tensor, q: Posterior, noise: Noise, *, steps: int = STEPS, draws: int = DRAWS
) -> tuple[Posterior, Tensor]:
    """The best member of q's family for each image, by Adam up the ELBO from q on.

    Returns:
        the posterior, without gradients, and the ELBO at each step, a mean over its draws, (steps, B, N).
    """
    family = Family.of(q)
    free = [value.detach().clone().requires_grad_() for value in family.start]
    adam = torch.optim.Adam(free, lr=RATE)
    trace = []
    with torch.enable_grad():
        for step in range(steps):
            adam.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            elbo = elbo_to_climb(decoder, x, family, free, noise, draws)
            # the sum's gradient is each image's own
            gradients = torch.autograd.grad(-elbo.sum(), free)
            for value, gradient in zip(free, gradients, strict=True):
                value.grad = gradient
            adam.step()
            trace.append(elbo.detach())
    return family.make([value.detach() for value in free]), torch.stack(trace).double()


def elbo_to_climb(
    decoder: objective.Likelihood, x: Tensor, family: Family, free: Sequence[Tensor], noise: Noise, draws: int
) -> Tensor:
    """An unbiased ELBO with an unbiased gradient, (B, N), whose noise vanishes where q is the true posterior.

    log q is taken at parameters that stand still: the gradient that this leaves out is zero in expectation, and only
    noise (Roeder, Wu and Duvenaud 2017, Sticking the Landing; section 4 there for mixtures). A flow's log q is known
    at its own draws alone, and keeps its gradient.
    """
    q = family.make(free)
    if isinstance(q, PushForward):
        z, log_q = q.sample_with_log_prob(noise, draws)
        return (objective.log_joint(decoder, x, z) - log_q).mean(1)
    still = family.make([value.detach() for value in free])
    if isinstance(q, Mixture):
        count = q.log_alpha.shape[-2]
        each = max(1, draws // count)
        members, _, n, p = q.components.mu.shape
        z = q.components.unsqueeze(1).rsample(noise.normal((members, each, count, n, p)))
        log_w = objective.log_weights(decoder, x, still, z.flatten(1, 2)).unflatten(1, (each, count))
        return (q.log_alpha.exp().unsqueeze(1) * log_w).sum(2).mean(1)
    return objective.log_weights(decoder, x, still, q.sample(noise, draws)).mean(1)


@dataclass(frozen=True)
class Family:
    """The parameters that a posterior has for each image, and how they make one.

    Attributes:
        start: the parameters, means and precisions relative to the posterior they are of, so that one rate suits all.
        make: from such parameters to a posterior; from `start` to the one they are of.
    """

    start: list[Tensor]
    make: Callable[[Sequence[Tensor]], Posterior]

    @classmethod
    def of(cls, q: Posterior) -> Family:
        """The family of q. TypeError if its kind is not known."""
        for kind, family in _FAMILIES.items():
            if isinstance(q, kind):
                return family(q)
        known = ", ".join(kind.__name__ for kind in _FAMILIES)
        raise TypeError(f"the parameters of a {type(q).__name__} are not known; there are {known}")


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
    """The mean by L'^-1 d, the precision's factor by L M with M lower triangular, of diagonal exp(.)."""

    def make(free: Sequence[Tensor]) -> FullGaussian:
        step, factor = free
        relative = factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).exp())
        return FullGaussian(q.rsample(step), q.precision_cholesky @ relative)

    return Family([torch.zeros_like(q.mu), torch.zeros_like(q.precision_cholesky)], make)


def _push_forward(q: PushForward) -> Family:
    """The base's parameters and every tensor that a flow holds; one that several flows share stays one."""
    base = _diagonal(q.base)
    places = [_tensors(flow) for flow in q.flows]
    tensors = list({id(value): value for place in places for value in place.values()}.values())
    where = {id(value): i for i, value in enumerate(tensors)}

    def make(free: Sequence[Tensor]) -> PushForward:
        made = base.make(free[:2])
        assert isinstance(made, DiagonalGaussian)
        flows = [
            dataclasses.replace(flow, **{name: free[2 + where[id(value)]] for name, value in place.items()})  # type: ignore[type-var]
            for flow, place in zip(q.flows, places, strict=True)
        ]
        return PushForward(made, flows)

    return Family([*base.start, *tensors], make)


def _tensors(flow: Flow) -> dict[str, Tensor]:
    if not dataclasses.is_dataclass(flow):
        raise TypeError(f"the parameters of a {type(flow).__name__} are not known, for it is no dataclass")
    fields = {field.name: getattr(flow, field.name) for field in dataclasses.fields(flow)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


_FAMILIES: dict[type[Posterior], Callable] = {
    DiagonalGaussian: _diagonal,
    Mixture: _mixture,
    FullGaussian: _full,
    PushForward: _push_forward,
}


def iwae_by_samples(log_w: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """IWAE (eq. 1) with K samples for each K of `counts`, from one set of S log-weights (B, S, N).

    The S draws are dealt into S // K groups that share none, so that the mean over groups is unbiased for each K.

    Returns:
        the means and their Monte-Carlo standard errors (NaN where there is one group), each (len(counts), B, N).

    Raises:
        ValueError: a K that is not 1..S.
    """
    samples = log_w.shape[1]
    means, errors = [], []
    for count in counts:
        if not 1 <= count <= samples:
            raise ValueError(f"K={count}: there are {samples} samples")
        groups = samples // count
        each = objective.iwae(log_w[:, : groups * count].double().unflatten(1, (groups, count)))  # (B, groups, N)
        mean, error = _mean(each)
        means.append(mean)
        errors.append(error)
    return torch.stack(means), torch.stack(errors)


def _elbo(method: Method, x: Tensor, q: Posterior, noise: Noise, samples: int) -> Tensor:
    """Estimated at so many draws: (B, N)."""
    z, log_q = q.sample_with_log_prob(noise, samples)
    return (evaluate.log_joint(method, x, z).double() - log_q).mean(1)


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over samples (B, S, N), and its standard error, NaN for a single sample: each (B, N)."""
    count = values.shape[1]
    mean = values.mean(1)
    return mean, values.std(1) / math.sqrt(count) if count > 1 else torch.full_like(mean, math.nan)


def _evidence(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The IWAE bound from log-weights (B, S, N), and its standard error: each (B, N).

    By the delta method the error of the log of a mean is the mean's relative error.
    """
    bound = objective.iwae(log_w)
    return bound, torch.exp(log_w - bound.unsqueeze(1)).std(1) / math.sqrt(log_w.shape[1])
