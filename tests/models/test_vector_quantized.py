"""The vector-quantized VAE: its quantizers, its bound, its priors over codes, and its two stages of training."""

import dataclasses
import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyro_vae import Spec, build, evaluate, fit, latent, load, load_data, save
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import evidence as evidence_of
from pyro_vae.evaluation.latent_codes.codebook import codebook_use
from pyro_vae.models.codes.code_priors import AutoregressiveCodes, UniformCodes
from pyro_vae.models.codes.quantizers import FiniteScalarQuantizer, VectorQuantizer
from pyro_vae.training.code_prior import fit_code_prior
from pyro_vae.training.ensemble import fit_many

SMALL = {"kind": "vector-quantized", "channels": (4, 8), "blocks": 1}
VARIANTS = [
    {},
    {"codebook": "gradient"},
    {"gradient": "rotation"},
    {"quantizer": "finite-scalar", "levels": (4, 3)},
    {"code_prior": "autoregressive", "prior_width": 8, "prior_layers": 1},
]
QUIET = {"device": "cpu", "progress": False}


def spec_of(**options):
    of_vectors = {"codes": 16} if options.get("quantizer") != "finite-scalar" else {}
    return Spec(model=SMALL | of_vectors | options, likelihood="discretized-logistic", latent_dim=5, seed=3)


def small(**options):
    return build(spec_of(**options))


def digits(n=100):
    return load_data("digits").train.take(slice(0, n))


def elbo_of(model, x):
    """The ELBO of each image, from both programs' traces."""
    guide = poutine.trace(model.guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(x)
    guide.compute_log_prob()
    trace.compute_log_prob()
    total = sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site)
    return total - sum(guide.nodes[name]["log_prob"] for name in ("codes", "embedding"))


def shaken(model):
    """The same model with a prior that is not uniform."""
    for parameter in model.code_prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


# --- the pair ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_contract(options, tmp_path):
    model = small(**options)
    assert model.spec.model == spec_of(**options).model
    if options.get("code_prior"):
        shaken(model)  # its last layer starts at 0, where the others have no gradient yet
    x = digits(6).as_float()
    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, x)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().sum() > 0, name

    model.eval()
    codes = model.codes(x)
    assert codes.shape == (6, 2, 2)
    assert codes.dtype == torch.long
    p = model.decode_codes(codes.expand(3, *codes.shape))
    assert (p.batch_shape, p.event_shape) == ((3, 6), (1, 8, 8))
    assert model.sample(4).shape == (4, 1, 8, 8)
    loaded = load(save(model, tmp_path / "model.safetensors")).eval()
    assert loaded.spec == model.spec
    torch.testing.assert_close(loaded.reconstruct(x), model.reconstruct(x), rtol=0, atol=0)
    torch.testing.assert_close(elbo_of(loaded, x), elbo_of(model, x), rtol=0, atol=0)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_plain_pyro(options):
    model = small(**options)
    x = digits(20).as_float()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    draws = Predictive(model.model, num_samples=7)(size=3)
    assert draws["codes"].shape == (7, 3, 2, 2)
    assert draws["x"].shape == (7, 3, 1, 8, 8)
    assert bool((draws["codes"] < model.num_codes).all())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_elbo_is_the_joint_log_probability_of_image_and_codes(options):
    model = small(**options).eval()
    x = digits(5).as_float()
    codes = model.codes(x)
    expected = model.decode_codes(codes).log_prob(x) + model.code_prior().log_prob(codes)
    torch.testing.assert_close(elbo_of(model, x), expected)
    assert Trace_ELBO().loss(model.model, model.guide, x) == pytest.approx(-expected.sum().item(), rel=1e-5)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_model_in_float64(options):
    """The vectors of both programs are equal there, too; else their point masses would miss each other."""
    model = small(**options).double()
    x = digits(5).as_float().double()
    for training in (True, False):
        loss = Trace_ELBO().loss(model.train(training).model, model.guide, x)
        assert math.isfinite(loss)


@pytest.mark.parametrize("options", [{}, {"code_prior": "autoregressive", "prior_width": 8}], ids=str)
def test_the_elbo_and_the_kl_to_the_exact_posterior_add_up_to_the_evidence(options):
    """With 3 codes at 4 places all 81 grids can be summed; a point mass has the KL -log p(codes|x)."""
    model = small(codes=3, **options).eval()
    if options:
        shaken(model)
    x = digits(4).as_float()
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 1, 2, 2).expand(81, 4, 2, 2)
    conditioned = poutine.condition(model.model, data={"codes": grids})
    trace = poutine.trace(conditioned).get_trace(x)
    trace.compute_log_prob()
    joint = trace.nodes["codes"]["log_prob"] + trace.nodes["x"]["log_prob"]  # (81, 4)
    evidence = joint.logsumexp(0)
    chosen = (grids[:, 0] == model.codes(x)[:, None]).flatten(2).all(-1).long().argmax(1)
    log_posterior = (joint - evidence).gather(0, chosen[None])[0]
    torch.testing.assert_close(elbo_of(model, x) - log_posterior, evidence, rtol=1e-5, atol=1e-4)
    assert bool((elbo_of(model, x) <= evidence).all())


def test_the_penalty_is_of_training_alone():
    model, x = small(), digits(5).as_float()
    model.train()
    assert "penalty" in poutine.trace(model.guide).get_trace(x).nodes
    before = model.quantizer.vectors.clone()
    model.eval()
    assert "penalty" not in poutine.trace(model.guide).get_trace(x).nodes
    torch.testing.assert_close(model.quantizer.vectors, before, rtol=0, atol=0)


@pytest.mark.parametrize("beta", [0, 0.5, 1.0])
def test_the_penalty_is_added_to_the_loss_and_is_not_weighted_by_beta(beta):
    model, x = small(codebook="gradient", restart_below=0), digits(5).as_float()  # whose guide changes nothing
    quantized = model.quantizer(model.encoder(x))
    bound = model.decode_codes(quantized.codes).log_prob(x) + beta * model.code_prior().log_prob(quantized.codes)
    loss = Trace_ELBO().loss(model.model, model.guide, x, beta)
    assert loss == pytest.approx((quantized.penalty - bound).sum().item(), rel=1e-5)
    assert quantized.penalty.sum() > 1


# --- quantizers -------------------------------------------------------------------------------------------------------


def test_the_nearest_vector_is_chosen():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(20, 3).eval()
    z = torch.randn(7, 3, 4, 5)
    quantized = quantizer(z)
    places = z.movedim(1, -1).reshape(-1, 3)
    assert torch.equal(quantized.codes.flatten(), torch.cdist(places, quantizer.vectors).argmin(1))
    assert torch.equal(quantizer.codes(z), quantized.codes)
    distance = (places - quantizer.vectors[quantized.codes.flatten()]).square().view(7, -1).sum(1)
    torch.testing.assert_close(quantized.penalty, 0.25 * distance)


def test_a_codebook_learned_by_gradient_has_its_own_term():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(4, 2, codebook="gradient", commitment=0.5).eval()
    z = torch.randn(3, 2, 2, 2, requires_grad=True)
    quantized = quantizer(z)
    nearest = quantizer.embed(quantized.codes)
    torch.testing.assert_close(quantized.penalty, 1.5 * (z - nearest).square().flatten(1).sum(1))
    of_z, of_codebook = torch.autograd.grad(quantized.penalty.sum(), (z, quantizer.vectors))
    torch.testing.assert_close(of_z, 2 * 0.5 * (z - nearest))
    by_hand = torch.zeros(4, 2).index_add(0, quantized.codes.flatten(), 2 * (nearest - z).movedim(1, -1).reshape(-1, 2))
    torch.testing.assert_close(of_codebook, by_hand)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_straight_through_passes_the_gradient_unchanged(codebook):
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 3, codebook=codebook).eval()
    z, weights = torch.randn(2, 3, 2, 2, requires_grad=True), torch.randn(2, 3, 2, 2)
    embedding = quantizer(z).embedding
    assert torch.equal(embedding, quantizer.embed(quantizer.codes(z)))
    (gradient,) = torch.autograd.grad((embedding * weights).sum(), z)
    torch.testing.assert_close(gradient, weights)


def test_the_rotation_takes_z_to_its_vector_and_turns_the_gradient_with_it():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 4, gradient="rotation").double().eval()
    z = torch.randn(1, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    embedding = quantizer(z).embedding
    e = quantizer.embed(quantizer.codes(z)).flatten()
    assert torch.equal(embedding.flatten(), e)
    rows = [torch.autograd.grad(embedding.flatten()[i], z, retain_graph=True)[0].flatten() for i in range(4)]
    jacobian, source = torch.stack(rows), z.detach().flatten()
    torch.testing.assert_close(jacobian @ source, e)
    scale = e.norm() / source.norm()
    torch.testing.assert_close(jacobian.T @ jacobian, scale**2 * torch.eye(4, dtype=torch.float64))
    assert torch.linalg.det(jacobian / scale).item() == pytest.approx(1.0)  # a rotation, no reflection
    across = torch.linalg.qr(torch.stack([source, e], 1), mode="complete").Q[:, 2:]  # what the rotation leaves alone
    torch.testing.assert_close(jacobian @ across, scale * across)


def test_the_averages_are_those_of_all_batches():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(3, 2, decay=0.8, restart_below=0)
    counts, sums, vectors = torch.zeros(3), torch.zeros(3, 2), quantizer.vectors.clone()
    for _ in range(4):
        z = torch.randn(5, 2, 2, 3)
        places = z.movedim(1, -1).reshape(-1, 2)
        chosen = torch.nn.functional.one_hot(torch.cdist(places, vectors).argmin(1), 3).float()
        counts, sums = 0.8 * counts + 0.2 * chosen.sum(0), 0.8 * sums + 0.2 * chosen.T @ places
        vectors = torch.where(counts[:, None] > 0, sums / counts[:, None], vectors)
        quantized = quantizer(z)
        torch.testing.assert_close(quantizer.vectors, vectors)
        # the vectors after the step are those that the decoder is given
        assert torch.equal(quantized.embedding, quantizer.embed(quantized.codes))


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_dead_codes_are_restarted_at_places_of_the_batch(codebook):
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 2, codebook=codebook, decay=0.5)
    with torch.no_grad():
        quantizer.vectors.fill_(1e4)
    batches = [torch.randn(4, 2, 5, 5) for _ in range(20)]
    quantizer(batches[0])
    assert quantizer.vectors.detach().norm(dim=1).max() < 10
    with torch.no_grad():
        quantizer.vectors[3:] = 1e4  # nothing is near these from now on
        if codebook == "ema":
            quantizer.sums[3:] = 1e4 * quantizer.counts[3:, None]
    for z in batches[1:]:
        codes = quantizer(z).codes
    assert quantizer.vectors.detach().norm(dim=1).max() < 10
    assert len(codes.unique()) == 8

    never = VectorQuantizer(8, 2, codebook=codebook, restart_below=0)
    start = never.vectors.detach().clone()
    never(torch.randn(1, 2, 1, 1))
    assert (never.vectors.detach() == start).all(1).sum() >= 7


def test_the_codebook_settles_on_the_clusters_of_its_input():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    quantizer = VectorQuantizer(4, 2, decay=0.9, restart_below=0.5)
    for _ in range(200):
        places = centres[torch.arange(100) % 4] + 0.1 * torch.randn(100, 2)
        quantizer(places.T.reshape(1, 2, 10, 10))
    nearest = torch.cdist(centres, quantizer.vectors).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3]
    assert nearest.values.max() < 0.1


def test_finite_scalar_codes_number_all_combinations_of_levels():
    quantizer = FiniteScalarQuantizer((4, 3, 2))
    assert (quantizer.num_codes, quantizer.dim) == (24, 3)
    every = torch.arange(24).view(24, 1, 1)
    vectors = quantizer.embed(every)
    assert len({tuple(vector) for vector in vectors.flatten(1).tolist()}) == 24
    assert vectors.abs().max() == 1
    # atanh of a level, but for the outer ones, is what rounds to it
    z = torch.atanh(vectors.clamp(-0.99, 0.99))
    assert torch.equal(quantizer.codes(z), every)
    quantized = quantizer(z)
    assert torch.equal(quantized.codes, every)
    assert torch.equal(quantized.embedding, vectors)
    assert not quantized.penalty.any()


def test_the_gradient_of_rounding_is_that_of_what_is_rounded():
    quantizer = FiniteScalarQuantizer((5, 4))
    z = torch.randn(2, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(z).embedding.sum(), z)
    (expected,) = torch.autograd.grad(z.tanh().sum(), z)  # 2 sigmoid(2 z) - 1 = tanh z
    torch.testing.assert_close(gradient, expected)


# --- priors over codes ------------------------------------------------------------------------------------------------


def prior_of_three(**options):
    torch.manual_seed(0)
    prior = AutoregressiveCodes(3, (2, 2), width=8, **options)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return prior


ALL_GRIDS = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)


def test_priors_start_uniform():
    for prior in (UniformCodes(7, (2, 3)), AutoregressiveCodes(7, (2, 3), width=8)):
        log_prob = prior().log_prob(torch.randint(7, (4, 5, 2, 3)))
        torch.testing.assert_close(log_prob, torch.full((4, 5), -6 * math.log(7)))


def test_the_autoregressive_prior_is_a_distribution():
    p = prior_of_three()()
    log_prob = p.log_prob(ALL_GRIDS)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(p.log_prob(ALL_GRIDS.view(9, 9, 2, 2)), log_prob.view(9, 9))
    assert p.expand((4,)).log_prob(ALL_GRIDS[0]).shape == (4,)
    with pytest.raises(ValueError, match="within the support"):
        type(p)(p.network, validate_args=True).log_prob(torch.full((2, 2), 3))


def test_its_draws_have_its_probabilities():
    torch.manual_seed(1)
    p = prior_of_three()()
    draws = p.sample((20_000,)).flatten(1) @ torch.tensor([27, 9, 3, 1])
    frequencies = torch.bincount(draws, minlength=81) / 20_000
    probabilities = p.log_prob(ALL_GRIDS).exp().detach()
    error = (probabilities / 20_000).sqrt()
    assert ((frequencies - probabilities).abs() < 4.5 * error + 1e-4).all()
    assert probabilities.max() > 3 / 81  # not nearly uniform


def test_a_place_does_not_depend_on_later_codes():
    torch.manual_seed(0)
    prior = AutoregressiveCodes(6, (3, 4), width=8, layers=3)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    codes = torch.randint(6, (5, 12))
    logits = prior.logits(codes[:, :-1])
    for place in range(11):
        changed = codes.clone()
        changed[:, place] = (codes[:, place] + 1) % 6
        now = prior.logits(changed[:, :-1])
        assert torch.equal(now[:, : place + 1], logits[:, : place + 1])
        assert not torch.allclose(now[:, place + 1], logits[:, place + 1])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_captured_is_eager_and_a_resume_is_no_interruption(options, tmp_path):
    states = {}
    for name, backend, stops in (("eager", "off", (2,)), ("captured", "capture", (2,)), ("resumed", "off", (1, 2))):
        model = small(**options)
        for epochs in stops:
            settings = {"compile": backend, "checkpoint": tmp_path / name, "resume": epochs != stops[0]}
            history = fit(model, digits(96), epochs=epochs, batch_size=32, **settings, **QUIET)
        states[name] = model.state_dict()
    assert history.epochs[-1].train_loss_nats < history.epochs[0].train_loss_nats
    for name, value in states["eager"].items():
        assert torch.equal(states["captured"][name], value), name
        assert torch.equal(states["resumed"][name], value), name
    if options.get("quantizer") != "finite-scalar":
        assert states["eager"]["quantizer.counts"].any()


@pytest.mark.parametrize("options", VARIANTS[:2], ids=str)
def test_many_seeds_train_side_by_side(options):
    """Codebooks are buffers, which come back with the members' weights."""
    spec = dataclasses.replace(spec_of(**options), epochs=2, batch_size=48, validation_fraction=0.0)
    runs = fit_many(spec, digits(96), seeds=[0, 5], **QUIET)
    single = build(dataclasses.replace(spec, seed=5))
    fit(single, digits(96), seed=5, compile="capture", **QUIET)
    for name, value in runs[1][0].state_dict().items():
        torch.testing.assert_close(value, single.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_many_seeds_resume_with_their_codebooks(tmp_path):
    spec = dataclasses.replace(spec_of(), epochs=2, batch_size=48, validation_fraction=0.0)
    whole = fit_many(spec, digits(96), seeds=[0, 5], out=tmp_path / "whole", **QUIET)
    fit_many(dataclasses.replace(spec, epochs=1), digits(96), seeds=[0, 5], out=tmp_path / "parts", **QUIET)
    parts = fit_many(spec, digits(96), seeds=[0, 5], out=tmp_path / "parts", resume=True, **QUIET)
    for (model, _), (resumed, _) in zip(whole, parts, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_a_prior_is_fitted_to_the_codes_of_a_trained_model(tmp_path):
    model = small()
    images, held_out = digits().split(0.3)
    fit(model, images, epochs=5, batch_size=32, **QUIET)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    history = fit_code_prior(
        model, images, width=16, layers=1, validation=held_out, epochs=20, batch_size=32, lr=1e-2, **QUIET
    )
    assert torch.equal(torch.get_rng_state(), generator)
    uniform = 4 * math.log(16)
    assert history.epochs[0].train_loss_nats < uniform + 0.5
    assert history.epochs[-1].train_loss_nats < uniform - 1
    assert history.epochs[-1].validation_loss_nats < uniform
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name
    x = held_out.as_float()
    loss = -model.code_prior().log_prob(model.codes(x)).mean().item()
    assert history.epochs[-1].validation_loss_nats == pytest.approx(loss, rel=1e-4)

    assert model.spec.model == SMALL | {
        "codes": 16,
        "code_prior": "autoregressive",
        "prior_width": 16,
        "prior_layers": 1,
    }
    loaded = load(save(model, tmp_path / "both.safetensors")).eval()
    torch.testing.assert_close(elbo_of(loaded, x), elbo_of(model, x), rtol=0, atol=0)
    further = fit_code_prior(loaded, images, epochs=1, batch_size=32, **QUIET)
    assert further.epochs[0].train_loss_nats < uniform - 0.5  # trained on, not begun anew


def test_a_fit_of_the_prior_resumes(tmp_path):
    priors = []
    for name, stops in (("whole", (3,)), ("parts", (1, 3))):
        model = small().eval()
        for epochs in stops:
            settings = {"checkpoint": tmp_path / name, "resume": epochs != stops[0], "epochs": epochs}
            model = small().eval()
            fit_code_prior(model, digits(), width=8, batch_size=32, **settings, **QUIET)
        priors.append(model.code_prior.state_dict())
    for name, value in priors[0].items():
        assert torch.equal(priors[1][name], value), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "scalar"}, "quantizer: given 'scalar', expected one of vector, finite-scalar"),
        ({"codes": 0}, "codes: given 0, expected a whole number of at least 1"),
        ({"codebook": "kmeans"}, "codebook: given 'kmeans', expected one of ema, gradient"),
        ({"gradient": "none"}, "gradient: given 'none', expected one of straight-through, rotation"),
        ({"commitment": -1}, "commitment: given -1, expected a finite number of at least 0"),
        ({"decay": 1.0}, "decay: given 1.0, expected a number from 0 to below 1"),
        ({"restart_below": 2}, "restart_below: given 2, expected a number from 0 to below 1"),
        ({"quantizer": "finite-scalar", "levels": (3, 1)}, "levels: given .3, 1., expected at least 2 levels"),
        ({"channels": (4, 4, 4, 4)}, "image_shape: given .*, expected at least 16x16 pixels"),
        ({"channels": ()}, "channels: given .*, expected the channels of at least one convolution"),
        (
            {"quantizer": "finite-scalar", "codes": 8},
            "codes: given 8, expected its default, 512: quantizer finite-scalar",
        ),
        (
            {"levels": [4, 4]},
            r"levels: given .4, 4., expected its default, .8, 8, 8.: quantizer vector does not use it",
        ),
        ({"prior_width": 8}, "prior_width: given 8, expected its default, 64: code_prior uniform does not use it"),
        ({"blocks": -1}, "blocks: given -1, expected a whole number of at least 0"),
        ({"code_prior": "pixelcnn"}, "code_prior: given 'pixelcnn', expected one of uniform, autoregressive"),
        (
            {"code_prior": "autoregressive", "prior_width": 6},
            "prior_width: given 6, expected a multiple of 4, the number of attention heads",
        ),
        ({"code_prior": "autoregressive", "prior_layers": 0}, "prior_layers: given 0, expected a whole number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        small(**options)


@pytest.mark.parametrize("options", [{"codes": 6}, {"quantizer": "finite-scalar", "levels": (3, 2)}], ids=str)
def test_codes_that_are_none_are_not_decoded(options):
    model = small(**options)
    for outside in (-1, 6, 7):
        with pytest.raises(InputError, match=f"codes: given {outside}, expected whole numbers from 0 to 5"):
            model.decode_codes(torch.tensor([[0, 1], [outside, 2]]))
    for other in (torch.zeros(2, 2), torch.zeros(4, dtype=torch.long)):
        with pytest.raises(InputError, match="codes: given .*, expected whole .* of shape"):
            model.decode_codes(other)


def test_a_prior_that_is_there_keeps_its_sizes():
    model = small(code_prior="autoregressive", prior_width=8)
    for name, size, expected in (("width", 16, 8), ("layers", 1, 2)):
        with pytest.raises(InputError, match=f"{name}: given {size}, expected {expected}, that of the model's code p"):
            fit_code_prior(model, digits(), epochs=1, **{name: size}, **QUIET)
    fit_code_prior(model, digits(), width=8, layers=2, epochs=1, batch_size=100, **QUIET)


def test_bad_calls():
    model = small()
    with pytest.raises(InputError, match="x: given .*, expected floats"):
        model.guide(torch.zeros(2, 64))
    with pytest.raises(InputError, match="size: given None"):
        model.model()
    with pytest.raises(InputError, match="n: given 0"):
        model.sample(0)
    with pytest.raises(InputError, match="model: given 'VAE', expected a VectorQuantized|model: given VAE"):
        fit_code_prior(build(Spec()), digits())
    with pytest.raises(InputError, match="validation: given .*, expected Images"):
        fit_code_prior(model, digits(), validation=3)


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"code_prior": "autoregressive", "prior_width": 8}], ids=str)
def test_it_is_evaluated_by_its_traces(options):
    model, images = small(**options), digits(30)
    if options:
        shaken(model)
    model.train()
    metrics = evaluate(model, images, metrics=["bounds", "codes"], device="cpu")
    model.eval()
    x = images.as_float()
    assert metrics.elbo_nats == pytest.approx(elbo_of(model, x).mean().item(), rel=1e-5)
    assert set(metrics.kl_by_site) == {"codes", "embedding"}
    assert metrics.kl_by_site["embedding"] == 0
    assert metrics.kl_per_sample == pytest.approx(-model.code_prior().log_prob(model.codes(x)).mean().item(), rel=1e-5)
    use = codebook_use(model.codes(x), 16)
    assert (metrics.codes_used, metrics.code_perplexity) == (use.used, use.perplexity)
    assert metrics.mse_per_pixel == pytest.approx((model.reconstruct(x) - x).square().mean().item(), rel=1e-4)
    assert latent.prior_samples(model, 5, device="cpu").shape == (5, 1, 8, 8)
    # one grid of codes is no sample of all of them, from which the evidence could be estimated
    with pytest.raises(InputError, match="VectorQuantized has no evidence"):
        evaluate(model, images, metrics=["evidence"], k=30, device="cpu")
    with pytest.raises(
        InputError, match="a model whose guide has a density; this one's is a point, whose weight is the"
    ):
        evidence_of(model, images, k=30, device="cpu")


def test_other_models_have_no_codebook_metrics():
    metrics = evaluate(build(Spec(latent_dim=2)), digits(30), metrics=["codes"], binarization="threshold", device="cpu")
    assert metrics.codes_used is None
    assert "code_perplexity" not in metrics.to_dict()


def test_the_mode_of_the_prior_takes_the_most_probable_code_at_each_place():
    p = prior_of_three()()
    chosen = p.mode.flatten()
    for place in range(4):
        logits = p.network.logits(chosen[None, :place])[0, -1]
        assert logits.argmax() == chosen[place]
    assert p.expand((5,)).mode.shape == (5, 2, 2)
