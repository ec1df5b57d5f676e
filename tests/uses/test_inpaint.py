"""Inpainting against exact conditionals: a linear-Gaussian model, and a model of two modes."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_gaussian import linear_gaussian
from PIL import Image
from torch import nn

from pyro_vae import VAE, Spec, build, likelihoods, load_data, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae.uses.chains import _Fillings
from pyro_vae.uses.code_posterior import Ascent
from pyro_vae.uses.inpaint import METHODS, inpaint
from pyro_vae.uses.masks import mask_of

SEEN = torch.tensor([[[True, False], [False, True]]])
S, H = [0, 3], [1, 2]


def conditional(evidence, x):
    """Mean and covariance of the hidden pixels given the seen ones, of rows of x."""
    covariance, mean = evidence.covariance_matrix, evidence.mean
    gain = covariance[H][:, S] @ torch.linalg.inv(covariance[S][:, S])
    return mean[H] + (x[:, S] - mean[S]) @ gain.T, covariance[H][:, H] - gain @ covariance[S][:, H]


def errors(method, *, narrow=1.0, draws=6000, steps=100):
    """How far mean and covariance of the draws are from the exact ones, with the encoder's sd scaled by `narrow`."""
    vae, evidence = linear_gaussian()
    with torch.no_grad():
        vae.encoder[1].bias[2:] += 2 * math.log(narrow)
    torch.manual_seed(0)
    x = torch.rand(2, 4)
    result = inpaint(
        vae,
        x.reshape(2, 1, 2, 2),
        SEEN,
        method=method,
        draws=draws,
        codes=2 * draws,
        steps=steps,
        decoded_at_once=10**6,
    )
    hidden = result.draws.flatten(2)[..., H]
    mean, covariance = conditional(evidence, x)
    of_draws = torch.stack([torch.cov(hidden[:, image].T) for image in range(2)])
    assert torch.equal(result.draws.flatten(2)[..., S], x[:, S].expand(draws, 2, 2))
    return {
        "mean": (hidden.mean(0) - mean).abs().max().item(),
        "rao_blackwell": (result.mean.flatten(1)[:, H] - mean).abs().max().item(),
        "covariance": (of_draws - covariance).abs().max().item() / covariance.abs().max().item(),
    }


@pytest.mark.parametrize("method", METHODS)
def test_of_a_linear_gaussian_model_draws_have_the_conditional_mean_and_covariance(method):
    """The encoder is exact here, so that pseudo-Gibbs is Gibbs."""
    measured = errors(method)
    assert measured["mean"] < 0.05
    assert measured["rao_blackwell"] < 0.03
    assert measured["covariance"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_with_an_encoder_that_is_too_narrow_only_pseudo_gibbs_is_biased(method):
    measured = errors(method, narrow=0.6, steps=300)
    if method == "pseudo-gibbs":
        assert measured["covariance"] > 0.2
    else:
        assert measured["covariance"] < 0.08
        assert measured["mean"] < 0.03


class TwoModes(nn.Module):
    """Logits of four pixels: one image for z < 0, another for z > 0; they differ little in the pixel that is seen."""

    def forward(self, z):
        return ((20 * z).tanh() * torch.tensor([0.6, 5.0, -5.0, 5.0])).reshape(-1, 1, 2, 2)


class Side(nn.Module):
    """Codes of the mode that an image looks like: mean 1 or -1, and a small variance."""

    def forward(self, x):
        side = torch.sign(x.flatten(1)[:, [1, 3]].sum(1) - x.flatten(1)[:, 2] - 0.5)
        return torch.stack([side, torch.full_like(side, math.log(0.1))], -1)


def of_two_modes():
    return VAE(Side(), TwoModes(), priors.StandardNormal(1), likelihoods.Bernoulli(), posteriors.DiagonalNormal(1))


def test_weights_of_two_modes_are_exact_but_for_metropolis_which_is_trapped():
    """p(z > 0 | first pixel is 1) is the logistic function of about twice its logit."""
    vae, x = of_two_modes(), torch.ones(1, 1, 2, 2)
    seen = torch.tensor([[True, False], [False, False]])
    z = torch.linspace(-6, 6, 20_001)
    weight = ((20 * z).tanh() * 0.6).sigmoid() * (-z.square() / 2).exp()
    exact = (weight[z > 0].sum() / weight.sum()).item()

    def share(method):
        """Of draws with a white second pixel, and the mean of that pixel."""
        result = inpaint(vae, x, seen, method=method, draws=1000, codes=20_000, steps=150, decoded_at_once=10**6)
        return (result.draws[:, 0, 0, 0, 1] == 1).float().mean().item(), result.mean[0, 0, 0, 1].item()

    of_pixel = exact * torch.sigmoid(torch.tensor(5.0)).item() + (1 - exact) * torch.sigmoid(torch.tensor(-5.0)).item()
    assert share("importance") == pytest.approx((of_pixel, of_pixel), abs=0.04)
    assert share("adaptive-importance") == pytest.approx((of_pixel, of_pixel), abs=0.04)
    assert share("collapsed-metropolis") == pytest.approx((of_pixel, of_pixel), abs=0.04)
    # The chains start at a black image, which is the mode of z < 0; q(z|x) never proposes to leave it.
    assert max(share("metropolis")) < 0.5 * of_pixel


def test_a_long_chain_keeps_few_fillings_and_proposes_from_those_before_its_code():
    """Fillings are numbered here; the first chain accepts in step 600, the second in all, the third in the first."""
    fillings = _Fillings(1000)
    for step in range(1000):
        if step % fillings.every == 0:
            fillings.add(torch.full((3, 2), float(step)))
        fillings.moved(torch.tensor([step in (0, 600), True, step == 0]))
    torch.manual_seed(0)
    drawn = torch.stack([fillings.drawn_earlier()[:, 0] for _ in range(2000)])
    assert len(fillings.parameters) <= 100
    assert drawn.max(0).values.tolist() == [600, 990, 0]  # of the filling in the step, the code before had drawn it
    assert drawn[:, 0].unique().tolist() == list(range(0, 601, 10))


@pytest.mark.parametrize("method", ["adaptive-importance", "metropolis", "collapsed-metropolis"])
def test_all_but_importance_and_pseudo_gibbs_need_a_density_at_any_code(method):
    vae, x = build(Spec(latent_dim=2, posterior="planar")), torch.zeros(2, 1, 8, 8)
    with pytest.raises(InputError, match="model: given 'a posterior that is a flow without an inverse'"):
        inpaint(vae, x, torch.eye(8) > 0, method=method, draws=2, steps=3)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_draws_whatever_is_hidden(method):
    vae, x = build(Spec(latent_dim=2, hidden=(16,))), load_data("digits").test.as_float()[:4].round()
    seen = mask_of("random:0.5", 4, (1, 8, 8))
    options = {"method": method, "draws": 3, "codes": 20, "steps": 10, "ascent": Ascent(steps=5)}
    state = torch.get_rng_state()
    first = inpaint(vae, x, seen, **options)
    second = inpaint(vae, torch.where(seen, x, torch.nan), seen, **options)
    assert torch.equal(first.draws, second.draws)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.where(seen, first.mean, 0), torch.where(seen, x, 0))


def test_masks_hide_what_they_say(tmp_path):
    shape = (3, 8, 6)
    hidden = {name: ~mask_of(name, 2, shape) for name in ("top", "left", "center", "random:0.25")}
    assert hidden["top"][:, :, :4].all()
    assert not hidden["top"][:, :, 4:].any()
    assert hidden["left"][..., :3].all()
    assert not hidden["left"][..., 3:].any()
    assert hidden["center"].sum().item() == 2 * 4 * 3
    assert hidden["center"][:, :, 2:6, 1:4].all()
    assert hidden["random:0.25"].flatten(1).sum(1).tolist() == [12, 12]
    assert not torch.equal(*hidden["random:0.25"])
    array = np.ones((8, 6), np.uint8) * 255
    array[2, 3] = 0
    np.save(tmp_path / "mask.npy", array)
    Image.fromarray(array).save(tmp_path / "mask.png")
    for name in ("mask.npy", "mask.png"):
        mask = mask_of(str(tmp_path / name), 2, shape)
        assert (~mask).nonzero().tolist() == [[0, 0, 2, 3], [1, 0, 2, 3]]


def _write_png(path, width, height, last_chunk=b"IEND"):
    """A grey picture whose pixels are missing; a last chunk whose name is not of letters makes it a broken file."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"")[:2])
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(last_chunk, b""))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("bottom", "mask: given 'bottom', expected top, left, center, random:SHARE"),
        ("random", "mask: given 'random'"),
        ("random:1", "mask: given 'random:1', expected random:SHARE with a share above 0"),
        ("random:0.001", "seen: given 'a mask that hides no pixel'"),
        ("none.npy", "mask: given 'none.npy', expected an existing file with a mask$"),
        ("SMALL.npy", r"mask: given '.*SMALL.npy of shape \(4, 4\)', expected \(8, 8\)"),
        ("BLACK.npy", "seen: given 'a mask that hides all pixels'"),
        ("nothing.npy", "mask: given 'nothing.npy', expected a file with a mask"),
        ("archive.npy", "mask: given 'archive.npy', expected a file with a mask"),
        ("nothing.png", "mask: given 'nothing.png', expected a file with a mask"),
        ("damaged.png", "mask: given 'damaged.png', expected a file with a mask"),
        ("bomb.png", "mask: given 'bomb.png', expected a file with a mask .*decompression bomb"),
    ],
)
def test_a_mask_that_is_none_is_an_error(tmp_path, monkeypatch, mask, message):
    monkeypatch.chdir(tmp_path)
    np.save("SMALL.npy", np.ones((4, 4)))
    np.save("BLACK.npy", np.zeros((8, 8)))
    for name in ("nothing.npy", "nothing.png"):
        Path(name).touch()
    with Path("archive.npy").open("wb") as file:
        np.savez(file, mask=np.eye(8))
    _write_png("damaged.png", 8, 8, last_chunk=b"I\0ND")
    _write_png("bomb.png", 2**15, 2**15)
    with pytest.raises(InputError, match=message):
        mask_of(mask, 2, (1, 8, 8))


@pytest.mark.parametrize(
    ("images", "seen", "options", "message"),
    [
        (torch.zeros(2, 1, 9, 8), torch.eye(9, 8) > 0, {}, "images: given Tensor .* expected images that the model's"),
        (torch.zeros(2, 1, 8, 8), torch.eye(9, 8) > 0, {}, "seen: given Tensor .* expected a mask that broadcasts"),
        (torch.zeros(2, 1, 8, 8), torch.eye(8), {}, "seen: given Tensor .* expected a mask of True and False"),
        (torch.zeros(8, 8), torch.eye(8) > 0, {}, "images: given Tensor .* expected floats"),
        (torch.full((2, 1, 8, 8), torch.nan), torch.eye(8) > 0, {}, "images: given 'NaN or infinity in seen pixels'"),
        (
            torch.full((2, 1, 8, 8), 255.0),
            torch.eye(8) > 0,
            {},
            "images: given 'seen pixels from 255 to 255', expected floats in .0, 1.",
        ),
        (torch.full((2, 1, 8, 8), -0.1), torch.eye(8) > 0, {}, "images: given 'seen pixels from -0.1 to -0.1'"),
        (torch.zeros(2, 1, 8, 8), torch.eye(8) > 0, {"method": "gibbs"}, "method: given 'gibbs', expected one of"),
        (torch.zeros(2, 1, 8, 8), torch.eye(8) > 0, {"draws": 0}, "draws: given 0"),
    ],
)
def test_what_can_not_be_inpainted_is_an_error(images, seen, options, message):
    with pytest.raises(InputError, match=message):
        inpaint(build(Spec(latent_dim=2)), images, seen, **options)
