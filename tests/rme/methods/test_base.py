"""The base class of all methods: centred images, the decoder, the start from a finished model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rme.config import RunSpec
from rme.methods.base import copy_parameters
from rme.methods.sa import SA
from rme.methods.vae import VAE

SHAPE, MEMBERS = (3, 32, 32), 2


def vae(seed: int, decoder: str = "conv") -> VAE:
    method = VAE(RunSpec(method="vae", dataset="digits", dim=3, decoder=decoder), SHAPE, MEMBERS)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return method


def finished(seed: int) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in vae(seed).named_parameters()}


def test_images_are_centred_member_by_member() -> None:
    method, g = vae(0), torch.Generator().manual_seed(1)
    assert method.pixel_mean.shape == (MEMBERS, *SHAPE) and (method.pixel_mean == 0).all()
    assert "pixel_mean" in method.state_dict()
    method.pixel_mean.copy_(torch.rand(MEMBERS, *SHAPE, generator=g))
    pixels = torch.randint(0, 256, (MEMBERS, 4, *SHAPE), generator=g).to(torch.uint8)
    before = pixels.clone()
    found = method.centred(pixels)
    assert found.dtype == torch.float32 and torch.equal(pixels, before)
    for b in range(MEMBERS):
        for n in range(4):
            torch.testing.assert_close(found[b, n], pixels[b, n] / 255 - method.pixel_mean[b])


def test_the_decoder_has_the_runs_size_and_kind() -> None:
    z = torch.zeros(MEMBERS, 5, 3)
    for kind, other in (("conv", "fc"), ("fc", "conv")):
        method = vae(0, kind)
        assert method.members == MEMBERS and method.spec.decoder == kind
        assert method.decoder(z).shape == (MEMBERS, 5, *SHAPE)
        assert [p.shape for p in method.decoder.parameters()] != [p.shape for p in vae(0, other).decoder.parameters()]
        assert any(value.dim() == 5 for value in method.decoder.parameters()) == (kind == "conv")


def test_a_start_copies_the_shared_modules_and_keeps_the_others() -> None:
    method, parent = vae(1), finished(2)
    own = finished(1)
    method.start_from({name: value for name, value in parent.items() if name.startswith("encoder.")})
    for name, value in method.named_parameters():
        assert torch.equal(value, (parent if name.startswith("encoder.") else own)[name]), name
    method.start_from(parent)
    assert all(torch.equal(value, parent[name]) for name, value in method.named_parameters())
    parent["encoder.head.0.bias"].add_(1)
    assert not torch.equal(method.encoder.head[0].bias, parent["encoder.head.0.bias"]), "a copy, not the same tensor"


def test_a_parameter_that_the_finished_model_lacks_is_named() -> None:
    parent = finished(2)
    del parent["decoder.logvar"]
    with pytest.raises(KeyError, match=r"decoder\.logvar"):
        vae(1).start_from(parent)


def test_a_module_is_copied_from_another_name() -> None:
    layer = nn.Linear(2, 3)
    parent = {"whole.weight": torch.ones(3, 2), "whole.bias": torch.full((3,), 2.0), "partial.bias": torch.zeros(3)}
    copy_parameters(layer, parent, "whole")
    assert (layer.weight == 1).all() and (layer.bias == 2).all() and layer.weight.requires_grad
    with pytest.raises(KeyError, match=r"partial\.weight"):
        copy_parameters(layer, parent, "partial")


def test_a_method_without_diagnostics_has_none() -> None:
    assert vae(0).diagnostics(torch.zeros(MEMBERS, 1, *SHAPE), None) == {}  # type: ignore[arg-type]


def test_a_runs_options_override_the_defaults() -> None:
    spec = {"method": "sa", "order": 1, "dataset": "digits", "dim": 3}
    assert SA(RunSpec(**spec), SHAPE, 1).svi_step == 1e-3
    assert SA(RunSpec(**spec, options={"svi_step": 0.5}), SHAPE, 1).svi_step == 0.5
