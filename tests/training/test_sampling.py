"""Epochs of weighted draws: which images they have, resuming, and what is recorded."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from pyro_vae import Images, Spec, build, fit, fit_many, load, load_data, save
from pyro_vae._utils.checks import InputError
from pyro_vae.data.batches import shuffled
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint
from pyro_vae.training.sampling import make_sampler, weights_of

QUIET = {"progress": False, "device": "cpu", "binarization": "threshold", "batch_size": 50}
SPEC = Spec(latent_dim=2, hidden=(8,), binarization="threshold")
DENSITY = {"kind": "latent-density", "bins": 5}


def some(n=200):
    return load_data("digits").train.take(slice(0, n))


def new():
    return build(SPEC)


def state(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_draws_follow_the_weights():
    pixels = torch.zeros(40_000, 1, 1, 1, dtype=torch.uint8)
    weights = torch.arange(40_000) % 4  # 0, 1, 2, 3, ...
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.cat(list(shuffled(pixels, 1000, weights=weights.double())))
    share = weights[drawn].bincount(minlength=4).double() / len(drawn)
    assert len(drawn) == 40_000
    torch.testing.assert_close(share, torch.tensor([0, 1, 2, 3]).double() / 6, atol=0.01, rtol=0)


def test_the_loss_of_an_epoch_is_that_of_its_draws():
    """Of an autoencoder that does not learn, and weights of a single image."""
    images, losses = some(), []
    weights = torch.zeros(200).index_fill_(0, torch.tensor(7), 1.0)
    for chosen, sampler in ((images, lambda model, images: weights), (images.take(slice(7, 8)), None), (images, None)):
        model = build(Spec(model="autoencoder", latent_dim=2, hidden=(8,), binarization="threshold"))
        losses.append(fit(model, chosen, epochs=1, lr=1e-12, sampler=sampler, **QUIET).epochs[0].train_loss_nats)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize("compile", ["off", pytest.param("capture", marks=pytest.mark.slow)])
def test_resumed_training_is_bit_identical_with_weights_of_each_epoch(tmp_path, compile):
    images, whole, parts, other = some(), new(), new(), new()
    more = {"compile": compile, "sampler": DENSITY, **QUIET}
    history = fit(whole, images, epochs=3, **more)
    for epochs in (1, 2, 3):
        resumed = fit(parts, images, epochs=epochs, checkpoint=tmp_path, resume=epochs > 1, **more)
    assert torch.equal(state(whole), state(parts))
    assert history.column("train_loss_nats") == resumed.column("train_loss_nats")
    fit(other, images, epochs=3, **more | {"sampler": "shuffle"})
    assert not torch.equal(state(whole), state(other))


def test_weights_are_asked_for_in_each_epoch_of_the_model_as_it_is():
    images, model, seen = some(), new(), []

    def sampler(model, images):
        seen.append((model.training, torch.is_grad_enabled(), state(model).clone()))
        return torch.ones(len(images))

    fit(model, images, epochs=3, sampler=sampler, **QUIET)
    assert len(seen) == 4  # one before the training
    assert all(not training and not gradients for training, gradients, _ in seen)
    assert torch.equal(seen[0][2], seen[1][2])
    assert not torch.equal(seen[1][2], seen[2][2])


def test_a_sampler_may_take_gradients_and_keep_what_it_computed():
    """As inference mode would not let it."""
    images, model, mean = some(20), new(), []

    def sampler(model, images):
        x = images.as_float()
        with torch.enable_grad():
            loss = (model.encode(x).mean.square().sum(1)).mean()
            (gradient,) = torch.autograd.grad(loss, [next(model.encoder.parameters())])
        mean.append(model.encode(x).mean)
        return torch.full((20,), gradient.norm())

    fit(model, images, epochs=1, sampler=sampler, **QUIET)
    assert not any(each.requires_grad or each.is_inference() for each in mean)


def test_no_weights_are_each_image_once():
    plain, none = new(), new()
    fit(plain, some(), epochs=2, **QUIET)
    fit(none, some(), epochs=2, sampler=lambda model, images: None, **QUIET)
    assert torch.equal(state(plain), state(none))
    assert plain.spec.sampler == none.spec.sampler == "shuffle"


def test_the_spec_and_the_checkpoint_record_the_sampler(tmp_path):
    images, model = some(), new()
    fit(model, images, epochs=1, sampler=DENSITY, checkpoint=tmp_path / "checkpoint", **QUIET)
    assert load(save(model, tmp_path / "a.safetensors")).spec.sampler == DENSITY
    assert json.loads(model.spec.to_json())["sampler"] == DENSITY
    for other in ("shuffle", {"kind": "latent-density", "bins": 6}, lambda model, images: None):
        with pytest.raises(InputError, match="sampler: given .*as in the checkpoint"):
            fit(new(), images, sampler=other, epochs=2, checkpoint=tmp_path / "checkpoint", resume=True, **QUIET)


def test_a_checkpoint_of_before_there_were_samplers_is_resumed(tmp_path):
    images, model = some(), new()
    fit(model, images, epochs=1, checkpoint=tmp_path, **QUIET)
    stored = read_checkpoint(tmp_path)
    del stored["settings"]["sampler"]
    write_checkpoint(tmp_path, 1, stored)
    assert len(fit(model, images, epochs=2, checkpoint=tmp_path, resume=True, **QUIET).epochs) == 2


def test_a_model_without_codes_is_refused_before_anything_is_written(tmp_path):
    model = build(Spec(model={"kind": "vector-quantized", "codes": 4}, latent_dim=2, binarization="threshold"))
    with pytest.raises(InputError, match="a continuous latent site"):
        fit(model, some(), sampler=DENSITY, checkpoint=tmp_path / "checkpoint", epochs=1, **QUIET)
    assert not (tmp_path / "checkpoint").exists()


def test_a_rare_group_is_drawn_more_often():
    """Images of two kinds, of which one is 3 %, known by nothing but their codes."""
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand(600, 1, 8, 8, generator=generator) < 0.05).to(torch.uint8) * 255
    rare = torch.arange(600) < 18
    pixels[~rare, :, :4], pixels[rare, :, 4:] = 255, 255
    images, model = Images(pixels), new()
    fit(model, images, epochs=10, sampler=DENSITY, lr=2e-2, **QUIET)
    assert make_sampler(DENSITY)(model, images)[rare].sum() > 0.15


MODEL = new()
BAD = {
    "sampler: given 'shufle', expected one of shuffle, latent-density": "shufle",
    "sampler.bin: given 5, expected an option of latent-density": {"kind": "latent-density", "bin": 5},
    "sampler.bins: given 0": {"kind": "latent-density", "bins": 0},
    "sampler: given 3, expected a kind with options, or a function": 3,
    "sampler: given the class": WeightedRandomSampler,
    "sampler: given .*200 finite weights": lambda model, images: torch.ones(3),
    "sampler: given 'weights that are negative": lambda model, images: -torch.ones(len(images)),
    "sampler: given 'weights that are negative, not finite": lambda model, images: torch.full((200,), torch.nan),
    "sampler: given 'weights that are negative, not finite or all 0": lambda model, images: torch.zeros(200),
    "sampler: given 'none', expected a tensor": lambda model, images: "none",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        fit(MODEL, some(), epochs=1, sampler=BAD[message], **QUIET)


def test_many_seeds_have_no_weights():
    with pytest.raises(InputError, match="sampler: given .*expected shuffle: fit_many has no other"):
        fit_many(replace(SPEC, sampler="latent-density"), some(), seeds=[0, 1], progress=False)


def test_weights_of_leaves_the_modes_of_the_model():
    MODEL.train()
    assert weights_of(make_sampler("shuffle"), MODEL, some()) is None
    assert MODEL.training
