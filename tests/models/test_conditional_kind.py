"""The conditional VAE: of labels, and of quadrants of the image."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import Images, Spec, build, evaluate, fit, latent, load, save
from pyro_vae._utils.checks import InputError
from pyro_vae.models.base import batch_arguments, condition_of
from pyro_vae.models.conditional import quadrants_seen

LABEL = {"kind": "conditional", "classes": 2}
HALF = {"kind": "conditional", "condition": "quadrants-2"}
BASELINE = HALF | {"deterministic": True}
KINDS = {"label": LABEL, "half": HALF, "baseline": BASELINE}


def small(model, **fields):
    return build(Spec(model=model, latent_dim=3, hidden=(8,), image_shape=(1, 8, 8), **fields))


def arguments(model, images):
    return {"x": images.as_float(), **batch_arguments(model, images)}


def traces(model, arguments):
    guide = poutine.trace(model.guide).get_trace(**arguments)
    replayed = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(**arguments)
    for trace in (guide, replayed):
        trace.compute_log_prob()
    return guide, replayed


def linear_gaussian(condition):
    """Linear networks, a Gaussian likelihood of variance 0.1, and p(z|c) and q(z|x, c) whose variances are constant."""
    torch.manual_seed(1)
    model = build(
        Spec(
            model={"kind": "conditional", "condition": condition, "classes": 3},
            likelihood={"kind": "gaussian-linear", "variance": 0.1},
            latent_dim=2,
            hidden=(),
            image_shape=(1, 4, 4),
        )
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        if condition != "label":
            for network in (model.encoder, model.given.prior_of_image):
                network[-1].weight[2:] = 0
                network[-1].bias[2:] = torch.tensor([-0.7, 0.4])
    return model


@pytest.mark.parametrize("condition", ["label", "quadrants-1", "quadrants-3"])
def test_the_elbo_and_the_kl_to_the_posterior_are_the_evidence_of_what_is_not_seen(condition):
    """With p(z|c) = N(m, S) and p(u|z, c) = N(Wz + b, v), log p(u|c) and p(z|u, c) are known."""
    model = linear_gaussian(condition)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    labels = {"labels": torch.tensor([0, 2, 1])} if condition == "label" else {}
    c = model.given.condition(x, labels.get("labels"))
    prior = model.given.codes(c)
    at_zero = model.given.images(torch.zeros(3, 2).double(), c)
    at_unit = [model.given.images(torch.eye(2).double()[i].expand(3, 2), c) for i in range(2)]
    unseen = torch.ones(16, dtype=torch.bool)
    if condition != "label":
        unseen = ~model.given.seen.flatten()
    b = at_zero.mean.flatten(1)[:, unseen]
    w = torch.stack([images.mean.flatten(1)[0, unseen] - b[0] for images in at_unit], -1)
    s = prior.stddev.square().diag_embed()
    u = x.flatten(1)[:, unseen]
    noise = 0.1 * torch.eye(len(w)).double()
    evidence = MultivariateNormal(b + prior.mean @ w.T, w @ s @ w.T + noise).log_prob(u)
    precision = s.inverse() + w.T @ w / 0.1
    mean = torch.linalg.solve(precision, (prior.mean / prior.variance + (u - b) @ w / 0.1).unsqueeze(-1)).squeeze(-1)
    posterior = MultivariateNormal(mean, precision_matrix=precision)

    guide, _ = traces(model, {"x": x, **labels})
    q = guide.nodes["z"]["fn"]
    # E_q of log p(u|z, c) in closed form: at the mean of q, less the spread of W z.
    expected = model.given.images(q.mean, c).log_prob(x) - (w.square() * q.variance[:, None]).sum((1, 2)) / 0.2
    elbo = expected - kl_divergence(q, prior)
    gap = kl_divergence(MultivariateNormal(q.mean, q.variance.diag_embed()), posterior)
    torch.testing.assert_close(elbo + gap, evidence, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind, tiny):
    model = small(KINDS[kind])
    pyro.infer.Trace_ELBO().differentiable_loss(model.model, model.guide, **arguments(model, tiny)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or ("prior_of_label" in name and parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("kind", KINDS)
def test_beta_weighs_the_latent_site_in_both_programs(kind, tiny):
    model = small(KINDS[kind])
    given = arguments(model, tiny)
    for trace in traces(model, given | {"beta": torch.tensor(0.25)}):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and name != "data":
                assert float(site["scale"]) == (0.25 if name == "z" else 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_particles_in_an_outer_plate_are_scored_as_alone(kind, tiny):
    model = small(KINDS[kind])
    given = arguments(model, tiny)
    with torch.no_grad(), pyro.plate("particles", 4, dim=-2):
        guide = poutine.trace(model.guide).get_trace(**given)
        replayed = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(**given)
    replayed.compute_log_prob()
    log_prob = replayed.nodes["x"]["log_prob"]
    assert log_prob.shape == (4, len(tiny))
    data = {} if kind == "baseline" else {"z": guide.nodes["z"]["value"][2]}
    alone = poutine.trace(poutine.condition(model.model, data=data)).get_trace(**given)
    alone.compute_log_prob()
    torch.testing.assert_close(log_prob[2], alone.nodes["x"]["log_prob"])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_a_resumed_training_are_the_same_to_the_bit(kind, tiny, tmp_path):
    spec = {"epochs": 2, "batch_size": 5, "binarization": "dynamic"}
    whole, stopped = small(KINDS[kind], **spec), small(KINDS[kind], **spec)
    settings = {"device": "cpu", "progress": False, "compile": "off"}
    fit(whole, tiny, **settings)
    fit(stopped, tiny, epochs=1, checkpoint=tmp_path / "checkpoint", **settings)
    resumed = small(KINDS[kind], **spec)
    fit(resumed, tiny, checkpoint=tmp_path / "checkpoint", resume=True, **settings)
    save(resumed, tmp_path / "weights.safetensors")
    loaded = load(tmp_path / "weights.safetensors")
    assert loaded.spec == resumed.spec
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_training_is_the_eager_one(kind, tiny):
    spec = {"epochs": 3, "batch_size": 4, "binarization": "dynamic"}
    eager, captured = small(KINDS[kind], **spec), small(KINDS[kind], **spec)
    fit(eager, tiny, compile="off", device="cpu", progress=False)
    fit(captured, tiny, compile="capture", device="cpu", progress=False)
    for name, value in eager.state_dict().items():
        assert torch.equal(value, captured.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["half", "baseline"])
def test_only_unseen_pixels_are_scored_and_only_seen_ones_condition(kind):
    model = small(KINDS[kind])
    x = torch.rand(4, 1, 8, 8)
    seen = quadrants_seen((1, 8, 8), 2)
    other = torch.where(seen, x, torch.rand(4, 1, 8, 8))

    def site(image, name, **z):
        trace = poutine.trace(poutine.condition(model.model, data=z)).get_trace(image)
        trace.compute_log_prob()
        return trace.nodes[name]

    z = {} if kind == "baseline" else {"z": torch.randn(4, 3)}
    of_x, of_other = site(x, "x", **z), site(other, "x", **z)
    torch.testing.assert_close(of_x["fn"].pixels.mean, of_other["fn"].pixels.mean)
    logits = of_x["fn"].pixels.base_dist.logits
    crossed = torch.nn.functional.binary_cross_entropy_with_logits(logits, other, reduction="none")
    torch.testing.assert_close(of_other["log_prob"], -crossed[..., ~seen].sum((-2, -1)))
    if kind == "half":
        torch.testing.assert_close(site(x, "z", **z)["log_prob"], site(other, "z", **z)["log_prob"])


def test_completions_have_the_pixels_that_are_seen():
    model = small(HALF)
    x = torch.rand(4, 1, 8, 8)
    left = x[..., :4]
    completed = model.complete(x, draws=5)
    assert completed.shape == (5, 4, 1, 8, 8)
    assert torch.equal(completed[..., :4], left.expand(5, *left.shape))
    assert completed.std(0)[..., 4:].min() > 0
    drawn = poutine.uncondition(model.model)(x)
    assert torch.equal(drawn[..., :4], left)
    assert set(drawn[..., 4:].unique().tolist()) == {0.0, 1.0}
    baseline = small(BASELINE)
    assert torch.equal(baseline.complete(x, draws=2)[0], baseline.complete(x)[0])


def test_images_of_labels_are_drawn_from_their_prior():
    model = small(LABEL)
    with torch.no_grad():
        model.given.prior_of_label.weight.copy_(torch.tensor([[0.0, 4.0]] * 3 + [[0.0, -50.0]] * 3))
    labels = torch.tensor([0, 1]).repeat(500)
    trace = poutine.trace(model.model).get_trace(labels=labels, size=1000)
    assert trace.nodes["x"]["value"].shape == (1000, 1, 8, 8)
    z = trace.nodes["z"]["value"]
    assert torch.equal(z[labels == 1].round(decimals=3), torch.full((500, 3), 4.0))
    assert z[labels == 0].mean().abs() < 5 / math.sqrt(1500)
    assert abs(z[labels == 0].std() - 1) < 5 / math.sqrt(3000)


@pytest.mark.parametrize(
    ("number", "rows"),
    [(1, ["0000", "0000", "1100", "1100"]), (2, ["1100"] * 4), (3, ["1111", "1111", "1100", "1100"])],
)
def test_the_quadrants_that_are_seen(number, rows):
    assert ["".join(map(str, row)) for row in quadrants_seen((1, 4, 4), number).int().tolist()] == rows


def test_an_odd_image_has_the_middle_on_the_lower_right():
    assert quadrants_seen((1, 3, 5), 1).int().tolist() == [[0] * 5, [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_arguments_are_those_of_the_condition(tiny):
    assert list(batch_arguments(small(LABEL), tiny)) == ["labels"]
    assert condition_of(small(LABEL)) == ["labels"]
    assert batch_arguments(small(HALF), tiny) == {}
    assert condition_of(small(HALF)) == []


def test_evaluation_is_of_what_is_not_seen(tiny):
    model = small(BASELINE, binarization="threshold")
    metrics = evaluate(model, tiny, metrics=["bounds", "evidence"], k=3, device="cpu")
    x = (tiny.as_float() >= 0.5).float()
    with torch.no_grad():
        of_pixels = model.given.images(None, model.given.condition(x, None)).pixels.base_dist.log_prob(x)
    nll_nats = -of_pixels[..., 4:].sum((1, 2, 3)).mean().item()
    assert metrics.nll_nats == pytest.approx(nll_nats, rel=1e-5)
    assert metrics.elbo_nats == pytest.approx(-nll_nats, rel=1e-5)
    assert metrics.bits_per_dimension == pytest.approx(nll_nats / 32 / math.log(2), rel=1e-5)
    assert metrics.provenance["nll_nats"]["conditional_on"] == ["quadrants-2"]
    assert metrics.provenance["nll_nats"]["exact"]  # there is no z: three draws are no fewer than needed
    assert metrics.nll_warnings is None


@pytest.mark.parametrize("condition", ["quadrants-1", "quadrants-3"])
def test_the_squared_error_is_of_what_is_not_seen(condition, tiny):
    model = small({"kind": "conditional", "condition": condition}, binarization="threshold")
    metrics = evaluate(model, tiny, metrics=["bounds"], device="cpu")
    x = (tiny.as_float() >= 0.5).float()
    unseen = ~quadrants_seen((1, 8, 8), int(condition[-1]))
    with torch.no_grad():
        z = poutine.trace(model.guide).get_trace(x).nodes["z"]["fn"].mean
        error = (model.given.images(z, model.given.condition(x, None)).mean - x).square()[..., unseen]
    assert metrics.mse_per_pixel == pytest.approx(error.mean().item(), rel=1e-5)
    assert metrics.mse_per_pixel_sampled == pytest.approx(
        error.mean().item(), rel=0.2
    )  # as untrained weights are small


def test_a_model_of_a_part_of_the_image_has_no_samples_without_one(tiny):
    with pytest.raises(InputError, match="model: given 'Conditional', expected a model that .*model.complete"):
        latent.prior_samples(small(HALF), 4)
    labels = torch.tensor([1, 0, 1])
    assert latent.prior_samples(small(LABEL), 3, labels=labels).shape == (3, 1, 8, 8)
    with pytest.raises(InputError, match="labels: given None, expected a label for each sample"):
        latent.prior_samples(small(LABEL), 3)


def test_a_style_is_as_far_from_the_mean_of_each_label_in_its_standard_deviations(tiny):
    model = small(LABEL)
    some, y = tiny.take(slice(0, 3)), torch.tensor([0, 1, 0])
    with torch.no_grad():
        model.given.prior_of_label.weight.copy_(torch.tensor([[1.0, -2.0]] * 3 + [[0.4, 2.2]] * 3))
        x = some.as_float()
        z = poutine.trace(model.guide).get_trace(x, labels=y).nodes["z"]["fn"].mean
        mean, deviation = torch.tensor([1.0, -2.0]), torch.tensor([0.2, 1.1]).exp()
        u = (z - mean[y, None]) / deviation[y, None]
        given = nn.functional.one_hot(torch.ones_like(y), 2).float()
        expected = model.given.images(-2.0 + deviation[1] * u, given).mean
    grid = latent.style_grid(model, some, device="cpu")
    assert grid.shape == (3, 2, 1, 8, 8)
    torch.testing.assert_close(grid[:, 1], expected)
    torch.testing.assert_close(latent.style_grid(model, some, [1], device="cpu"), grid[:, 1:])
    assert grid[:, 0].sub(grid[:, 1]).abs().amax() > 0.01
    with torch.no_grad():
        own = model.given.images(z, nn.functional.one_hot(y, 2).float()).mean
    torch.testing.assert_close(grid[torch.arange(3), y], own)


def test_styles_are_of_models_and_images_with_labels(tiny):
    with pytest.raises(InputError, match="model: given 'Conditional', expected a model that is conditional on labels"):
        latent.style_grid(small(HALF), tiny)
    with pytest.raises(InputError, match="images: given 'images without labels'"):
        latent.style_grid(small(LABEL), Images(tiny.pixels))
    with pytest.raises(InputError, match="labels: given .*, expected labels from 0 to 1"):
        latent.style_grid(small(LABEL), tiny, [2])


X = torch.full((3, 1, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: small(LABEL | {"condition": "halves"}),
            "model.condition: given 'halves', expected one of label, quad",
        ),
        (lambda: small(LABEL | {"classes": 0}), "model.classes: given 0, expected a whole number of at least 1"),
        (lambda: small(LABEL | {"deterministic": True}), "model.deterministic: given True, expected False, or the con"),
        (lambda: small(HALF | {"deterministic": 1}), "model.deterministic: given 1, expected True or False"),
        (
            lambda: small(HALF, prior="laplace"),
            "prior: given 'laplace', expected standard-normal, for which p\\(z\\|c",
        ),
        (
            lambda: build(Spec(model=HALF, image_shape=(1, 1, 8))),
            "image_shape: given \\(1, 1, 8\\), expected at least 2",
        ),
        (lambda: small(LABEL).model(X), "labels: given None, expected the label of each image"),
        (lambda: small(LABEL).model(X, labels=torch.zeros(3)), "labels: given .*float32.*, expected the label of each"),
        (lambda: small(LABEL).model(X, labels=torch.tensor([1, 0])), "labels: given .*, expected 3, a label for each"),
        (lambda: small(LABEL).model(labels=torch.tensor([1, 2])), "labels: given 2, expected labels from 0 to 1"),
        (lambda: small(LABEL).model(labels=torch.tensor([1, -1])), "labels: given -1, expected labels from 0 to 1"),
        (lambda: small(LABEL).guide(X), "labels: given None"),
        (lambda: small(LABEL).model(size=3), "labels: given None"),
        (lambda: small(LABEL).complete(X), "model: given 'one of labels', expected one of a part of the image"),
        (lambda: small(HALF).model(size=3), "x: given None, expected images, of which a part is seen"),
        (lambda: small(HALF).complete(X, draws=0), "draws: given 0"),
        (lambda: small(HALF).complete(X[0]), "x: given .*, expected floats in \\[0, 1\\] of shape"),
        (lambda: fit(small(LABEL), Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))), "expected images with labels"),
        (
            lambda: fit(small(LABEL), Images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 2]))),
            "images: given 'labels from 0 to 2', expected labels from 0 to 1, the classes of the model",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_pyro_adds_to_an_error_inside_a_program_is_left_out():
    """Pyro appends the shapes of all sites to an error that is raised while a program is traced."""
    with pytest.raises(InputError) as caught:
        poutine.trace(small(LABEL).model).get_trace(labels=torch.tensor([0, 1, 2]))
    assert str(caught.value) == "labels: given 2, expected labels from 0 to 1"
    with pytest.raises(InputError) as caught:
        poutine.trace(poutine.trace(small(LABEL).model)).get_trace(X)
    assert str(caught.value).endswith("whole numbers of shape (N,)")
