"""One model at a time in ordinary torch.nn and torch.distributions: what the tests compare arrays of models with.

The networks are Tables 1-3 read out, and `RecMixVAE` with `pseudocode_step` is the listing of the supplement's
section 4, in its own words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

ENCODERS = {
    # Table 1, MNIST and OMNIGLOT: 28 -> 14 -> 7 -> 3
    (1, 28, 28): lambda p: nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(3 * 3 * 64, 256), nn.LeakyReLU(0.01),
        nn.Linear(256, 2 * p),
    ),
    # Table 2, CIFAR10 and SVHN: 32 -> 16 -> 8 -> 4
    (3, 32, 32): lambda p: nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(4 * 4 * 64, 512), nn.LeakyReLU(0.01),
        nn.Linear(512, 2 * p),
    ),
    # Table 3, CelebA: 64 -> 32 -> 16 -> 8 -> 4
    (3, 64, 64): lambda p: nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(64, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(4 * 4 * 64, 512), nn.LeakyReLU(0.01),
        nn.Linear(512, 2 * p),
    ),
}  # fmt: skip

DECODERS = {
    (1, 28, 28): lambda p: nn.Sequential(
        nn.Linear(p, 256), nn.ReLU(),
        nn.Linear(256, 3 * 3 * 64), nn.ReLU(), nn.Unflatten(1, (64, 3, 3)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, output_padding=1), nn.ReLU(),  # 3 -> 7
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
    ),
    (3, 32, 32): lambda p: nn.Sequential(
        nn.Linear(p, 512), nn.ReLU(),
        nn.Linear(512, 4 * 4 * 64), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    ),
    (3, 64, 64): lambda p: nn.Sequential(
        nn.Linear(p, 512), nn.ReLU(),
        nn.Linear(512, 4 * 4 * 64), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
        nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    ),
}  # fmt: skip


def fc_decoder(p: int, image_shape: tuple[int, int, int], width: int) -> nn.Sequential:
    """Table 5's decoder: two hidden layers of one width."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(
        nn.Linear(p, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, pixels),
        nn.Unflatten(1, image_shape),
    )  # fmt: skip


def weighted(module: nn.Module) -> list[nn.Module]:
    """The layers with weights, in the order in which they are applied."""
    return [layer for layer in module.modules() if isinstance(getattr(layer, "weight", None), Tensor)]


def copy_member(array: nn.Module, i: int, plain: nn.Module) -> None:
    """Give a plain network the weights of member i of an array of networks, layer by layer."""
    pairs = list(zip(weighted(array), weighted(plain), strict=True))
    with torch.no_grad():
        for theirs, own in pairs:
            own.weight.copy_(theirs.weight[i])
            own.bias.copy_(theirs.bias[i])


class ConvEncoder(nn.Module):
    def __init__(self, z_dim: int, x_dim: tuple[int, int, int]) -> None:
        super().__init__()
        self.layers = ENCODERS[x_dim](z_dim)

    def forward(self, x: Tensor) -> Independent:
        mu, logvar = self.layers(x).chunk(2, dim=1)
        return Independent(Normal(mu, torch.exp(logvar / 2)), 1)


class ConvDecoder(nn.Module):
    def __init__(self, z_dim: int, x_dim: tuple[int, int, int]) -> None:
        super().__init__()
        self.layers = DECODERS[x_dim](z_dim)
        self.logvar = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Independent:
        return Independent(Normal(self.layers(z), torch.exp(self.logvar / 2)), 3)


class Const(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.value, dtype=x.dtype)


class BaseBoundedRegressor(nn.Module):
    def __init__(self, x_dim: tuple[int, int, int], eps_min: float, eps_max: float, dim: int) -> None:
        super().__init__()
        self.low, self.high = eps_min, eps_max
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(x_dim[0] * x_dim[1] * x_dim[2], dim), nn.ReLU(), nn.Linear(dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(self.layers(x)[:, 0])


class RecMixVAE(nn.Module):
    """The supplement's main class. `draw(shape)` gives standard normal noise of that shape."""

    def __init__(
        self, z_dim: int, x_dim: tuple[int, int, int], num_comps: int, eps_min: float, eps_max: float,
        draw: Callable[[tuple[int, ...]], Tensor],
    ) -> None:  # fmt: skip
        super().__init__()
        self.M = num_comps - 1
        self.decoder = ConvDecoder(z_dim, x_dim)
        self.prior = Independent(Normal(torch.zeros(z_dim).double(), torch.ones(z_dim).double()), 1)
        self.comps = nn.ModuleList([ConvEncoder(z_dim, x_dim) for _ in range(num_comps)])
        self.eps_regrs = nn.ModuleList(
            [Const(1.0)] + [BaseBoundedRegressor(x_dim, eps_min, eps_max, 10) for _ in range(num_comps - 1)]
        )
        self.draw = draw

    def encoder_upto_kth(self, x: Tensor, k: int) -> MixtureSameFamily:
        eps = [regr(x) for regr in self.eps_regrs[: k + 1]]
        alphas = []
        for m in range(k + 1):
            alpha = eps[m]
            for j in range(m + 1, k + 1):
                alpha = alpha * (1 - eps[j])
            alphas.append(alpha)
        comps = [self.comps[m](x).base_dist for m in range(k + 1)]
        normal = Normal(torch.stack([c.loc for c in comps], 1), torch.stack([c.scale for c in comps], 1))
        return MixtureSameFamily(Categorical(probs=torch.stack(alphas, 1)), Independent(normal, 1))

    def encoder_kth_comp(self, x: Tensor, k: int) -> Independent:
        return self.comps[k](x)

    def eval_elbo_for_mixture(self, x: Tensor, mixture: MixtureSameFamily) -> tuple[Tensor, Tensor]:
        alphas = mixture.mixture_distribution.probs
        normal = mixture.component_distribution.base_dist
        n, comps, p = normal.loc.shape
        noise = self.draw((comps, n, p))
        ell = kl = torch.zeros(n, dtype=x.dtype)
        for m in range(comps):
            z = normal.loc[:, m] + normal.scale[:, m] * noise[m]
            ell = ell + alphas[:, m] * self.decoder(z).log_prob(x)
            kl = kl + alphas[:, m] * (mixture.log_prob(z) - self.prior.log_prob(z))
        return ell, kl

    def forward(self, x: Tensor, k: int, loss_type: str) -> tuple[Tensor, Tensor | None]:
        if loss_type == "mixture":
            ell, kl = self.eval_elbo_for_mixture(x, self.encoder_upto_kth(x, k))
            return (ell - kl).mean(), None
        q = self.encoder_kth_comp(x, k)
        z = q.base_dist.loc + q.base_dist.scale * self.draw(tuple(q.base_dist.loc.shape))
        prior = self.prior.expand(q.batch_shape)
        elbo = (self.decoder(z).log_prob(x) - kl_divergence(q, prior)).mean()
        if k == 0:
            return elbo, None
        return elbo, (q.log_prob(z) - self.encoder_upto_kth(x, k - 1).log_prob(z)).mean()

    def parts(self) -> list[nn.Module]:
        """What is updated on its own: each component, each regressor, the decoder."""
        return [*self.comps, *self.eps_regrs[1:], self.decoder]

    def enable_grad(self, part: nn.Module) -> None:
        self.requires_grad_(False)
        part.requires_grad_(True)


def pseudocode_step(model: RecMixVAE, adam: dict[nn.Module, torch.optim.Adam], x: Tensor, kl_max: float) -> list[bool]:
    """One pass of the main algorithm's inner loop. Returns for m = 1..M whether the KL bound was at work."""

    def descend(part: nn.Module, loss: Tensor) -> None:
        adam[part].zero_grad()
        loss.backward()
        adam[part].step()

    at_work = []
    model.enable_grad(model.comps[0])
    elbo, _ = model(x, 0, "new_comp")
    descend(model.comps[0], -elbo)
    for m in range(1, model.M + 1):
        model.enable_grad(model.comps[m])
        elbo, kl = model(x, m, "new_comp")
        descend(model.comps[m], -elbo + (kl_max - kl).relu())
        at_work.append(bool(kl < kl_max))
        model.enable_grad(model.eps_regrs[m])
        elbo, _ = model(x, m, "mixture")
        descend(model.eps_regrs[m], -elbo)
    model.enable_grad(model.decoder)
    elbo, _ = model(x, model.M, "mixture")
    descend(model.decoder, -elbo)
    return at_work
