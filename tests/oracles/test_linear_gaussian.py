"""Every method's posterior in a model with known log p(x): the importance weights have mean p(x).

E_q[p(x, z) / q(z|x)] = p(x) for any q, so this fails for any density that is not that of the draws.
"""

from __future__ import annotations

import math

import pytest
import torch

from rme import methods
from rme.noise import Noise
from rme.objective import iwae, log_joint
from tests.oracles.linear_gaussian import LinearGaussian

MEMBERS, IMAGES, DRAWS, DIM = 2, 3, 2500, 2


def cases() -> list:
    """Each method at its second order, except those whose decoder cannot be replaced."""
    swappable = [m for m in methods.registry().values() if "conv" in m.decoders]
    return [pytest.param(m.name, sorted(m.orders)[1] if m.orders else None, id=m.name) for m in swappable]


@pytest.mark.parametrize(("name", "order"), cases())
def test_the_importance_weights_have_mean_p_of_x(tiny, name: str, order: int | None) -> None:
    engine = tiny.engine(tiny.spec(name, order, dim=DIM, precision="float64", restarts=MEMBERS))
    method = engine.method
    for module_name, module in method.named_modules():
        if module_name.endswith("head.0"):  # so that q is wide enough for this decoder's posterior
            module.bias[:, DIM:] = 0.4
    method.decoder = decoder = LinearGaussian(MEMBERS, DIM, orthogonal=False)
    x = method.centred(tiny.images.test[:IMAGES].expand(MEMBERS, -1, -1, -1, -1))
    noise = Noise([torch.Generator().manual_seed(40 + i) for i in range(MEMBERS)], torch.float64)
    with torch.no_grad():
        z, log_q = method.posterior(x, noise).sample_with_log_prob(noise, DRAWS)
        log_w = log_joint(decoder, x, z) - log_q
        found = iwae(log_w)
    for b in range(MEMBERS):
        exact = decoder.log_evidence(b, x[b])
        ratio = torch.exp(log_w[b] - exact)  # of mean one
        error = ratio.std(0) / math.sqrt(DRAWS)
        assert (error < 0.05).all(), "too noisy to show anything"
        assert ((ratio.mean(0) - 1).abs() < 5 * error).all()
        assert (found[b] <= exact + 5 * error).all()
        assert (log_w[b].mean(0) < exact).all(), "the ELBO is a lower bound"
