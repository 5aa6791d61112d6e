"""A decoder with known posterior and log p(x): p(x|z) = N(W z + b, s^2 I), p(z) = N(0, I).

log p(x) = log N(x; b, W W' + s^2 I), and p(z|x) = N(V W'(x - b) / s^2, V) with V = (I + W'W / s^2)^-1.
`LinearGaussian` has B members; the closed forms are from torch.distributions, for one member at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from rme.distributions import DiagonalGaussian, Mixture
from rme.methods.base import Method
from rme.noise import Noise

SHAPE = (1, 28, 28)
PIXELS = 28 * 28


class LinearGaussian(nn.Module):
    """The likelihood of B members, in float64.

    Args:
        orthogonal: whether the columns of W are orthogonal, so that the posterior is diagonal.
    """

    def __init__(self, members: int, dim: int, orthogonal: bool, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        w = torch.randn(members, PIXELS, dim, generator=g, dtype=torch.float64)
        if orthogonal:
            w = torch.linalg.qr(w).Q * (1 + torch.arange(dim, dtype=torch.float64)) * 0.5
        else:
            w = (w + w[..., :1]) * 0.5 / PIXELS**0.5
        self.weight = nn.Parameter(w, requires_grad=False)  # (B, pixels, p)
        self.bias = nn.Parameter(0.1 * torch.randn(members, PIXELS, generator=g, dtype=torch.float64), False)
        self.logvar = nn.Parameter(torch.linspace(-1.4, -0.8, members, dtype=torch.float64), False)
        self.image_shape = SHAPE

    def forward(self, z: Tensor) -> Tensor:
        """The means W z + b: (B, N, p) -> (B, N, C, H, W)."""
        return (z @ self.weight.mT + self.bias.unsqueeze(1)).unflatten(-1, SHAPE)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        out = torch.empty(z.shape[:-1], dtype=z.dtype)
        for i in range(len(z)):
            mean = z[i] @ self.weight[i].T + self.bias[i]
            scale = torch.exp(self.logvar[i] / 2)
            out[i] = torch.distributions.Normal(mean, scale).log_prob(x[i].flatten(1)).sum(-1)
        return out

    def log_evidence(self, i: int, x: Tensor) -> Tensor:
        """log p(x) of member i's images (N, C, H, W): (N,)."""
        covariance = self.weight[i] @ self.weight[i].T + self.logvar[i].exp() * torch.eye(PIXELS, dtype=x.dtype)
        return MultivariateNormal(self.bias[i], covariance).log_prob(x.flatten(1))

    def posterior(self, i: int, x: Tensor) -> MultivariateNormal:
        """p(z|x) of member i's images (N, C, H, W)."""
        w, s2 = self.weight[i], self.logvar[i].exp()
        precision = torch.eye(w.shape[1], dtype=x.dtype) + w.T @ w / s2
        mean = torch.linalg.solve(precision, w.T @ (x.flatten(1) - self.bias[i]).T / s2).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def diagonal_posterior(self, x: Tensor) -> DiagonalGaussian:
        """The means and variances of all members' p(z|x), which is the posterior itself if that is diagonal."""
        exact = [self.posterior(i, part) for i, part in enumerate(x)]
        return DiagonalGaussian(torch.stack([p.mean for p in exact]), torch.stack([p.variance.log() for p in exact]))


class LinearMethod(Method):
    """A method of B members with this decoder; q(z|x) is the diagonal of p(z|x), optionally shifted and widened.

    Args:
        shift, widen: added to the means and to the log-variances.
        components: if not 0, q(z|x) is a mixture of this many equal components, with weights that vary over images.
    """

    name, label = "linear", "Linear"

    def __init__(self, spec, members: int, orthogonal: bool, shift=0.0, widen=0.0, components: int = 0) -> None:
        super().__init__(spec, SHAPE, members)
        self.double()
        self.decoder = LinearGaussian(members, spec.dim, orthogonal)
        self.shift, self.widen, self.count = shift, widen, components

    def posterior(self, x: Tensor, noise: Noise) -> DiagonalGaussian | Mixture:
        exact = self.decoder.diagonal_posterior(x)
        q = DiagonalGaussian(exact.mu + self.shift, exact.logvar + self.widen)
        if not self.count:
            return q
        mass = x.flatten(2)[..., : self.count].transpose(1, 2)  # any numbers that differ between images
        repeated = DiagonalGaussian(*(t.unsqueeze(1).expand(-1, self.count, -1, -1) for t in (q.mu, q.logvar)))
        return Mixture(torch.log_softmax(5 * mass, dim=1), repeated)

    def updates(self):
        return []
