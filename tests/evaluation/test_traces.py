"""Any pair of programs is evaluated by its traces: the evidence, KL and codes of known models."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Images, Spec, build, evaluate, latent
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import bounds, evidence
from pyro_vae.programs.traces import Traces

SEED = torch.Generator().manual_seed(3)
A, B, b = (torch.randn(shape, generator=SEED) for shape in ((3, 2), (4, 3), (4,)))


def images(n=6, seed=0):
    return Images(torch.randint(256, (n, 1, 2, 2), generator=torch.Generator().manual_seed(seed)).to(torch.uint8))


class TwoLayers(nn.Module):
    """p(z2) p(z1|z2) p(x|z1), all linear-Gaussian: the joint posterior and the evidence are normal."""

    def __init__(self, width=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.width = width  # of q(z1|x), times that of the exact posterior; None for a guide that is far off
        # Of (z2, z1), then x.
        root = torch.cat([torch.eye(2, 5), torch.cat([A, 0.7 * torch.eye(3)], 1)]).double()
        prior, weight = root @ root.T, torch.cat([torch.zeros(4, 2), B], 1).double()
        covariance = weight @ prior @ weight.T + 0.25 * torch.eye(4).double()
        self.evidence = dist.MultivariateNormal(b.double(), covariance)
        self.gain = prior @ weight.T @ torch.linalg.inv(covariance)
        self.spread = prior - self.gain @ weight @ prior

    def posterior(self, x):
        return dist.MultivariateNormal((x.flatten(1).double() - b.double()) @ self.gain.T, self.spread)

    def model(self, x=None, beta=1.0, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ A.T, 0.7).to_event(1))
            mean = (z1 @ B.T + b).unflatten(-1, (1, 2, 2))
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(3), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            if self.width is None:
                z1 = pyro.sample("z1", dist.Normal(x.flatten(1)[:, :3], 0.3).to_event(1))
                pyro.sample("z2", dist.Normal(z1[:, :2] * 0.4, 0.8).to_event(1))
                return
            p = self.posterior(x)  # q(z1|x) q(z2|z1), bottom-up
            spread = self.width * p.covariance_matrix[:, 2:, 2:].float()
            z1 = pyro.sample("z1", dist.MultivariateNormal(p.mean[:, 2:].float(), spread))
            gain = self.spread[:2, 2:] @ torch.linalg.inv(self.spread[2:, 2:])
            mean = p.mean[:, :2] + (z1.double() - p.mean[:, 2:]) @ gain.T
            rest = self.spread[:2, :2] - gain @ self.spread[2:, :2]
            pyro.sample("z2", dist.MultivariateNormal(mean.float(), rest.float()))


class Mixture(nn.Module):
    """p(y) p(x|y) of three components, enumerated; the model alone, or also the guide, has y."""

    def __init__(self, guided, wrong=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.guided, self.wrong = guided, wrong
        self.prior = torch.tensor([0.5, 0.3, 0.2])
        self.means = torch.tensor([0.1, 0.5, 0.9])

    def log_joint(self, x):
        p_x = dist.Normal(self.means[:, None, None, None], 0.4).expand([3, 1, 2, 2]).to_event(3)
        return (self.prior.log() + p_x.log_prob(x[:, None])).double()

    def model(self, x=None, beta=1.0, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(self.prior), infer={"enumerate": "parallel"})
            mean = self.means[y][..., None, None, None].expand(*y.shape, 1, 2, 2)
            pyro.sample("x", dist.Normal(mean, 0.4).to_event(3), obs=x)

    def guide(self, x, beta=1.0):
        if self.guided:
            logits = self.log_joint(x).float() + self.wrong * torch.arange(3.0)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def test_each_weight_of_two_layers_is_the_evidence_times_how_far_the_guide_is_off():
    x, pair = images().as_float(), TwoLayers()
    with torch.random.fork_rng():
        draws = Traces(pair).draws(x, 50)
    values, log_q = draws.cases[0].values, sum(draws.cases[0].log_q.values())
    of_posterior = pair.posterior(x).log_prob(torch.cat([values["z2"], values["z1"]], -1).double())
    expected = pair.evidence.log_prob(x.flatten(1).double()) + of_posterior - log_q.double()
    torch.testing.assert_close(draws.log_weights(), expected, rtol=0, atol=2e-5)
    elbo = -(draws.reconstruction() + sum(draws.kl().values())).double()
    torch.testing.assert_close(elbo, expected, rtol=0, atol=2e-5)


def test_with_the_exact_posterior_the_elbo_is_the_evidence():
    pair = TwoLayers(width=1.0)
    exact = pair.evidence.log_prob(images().as_float().flatten(1).double())
    result, measured = evidence(pair, images(), k=30), bounds(pair, images())
    torch.testing.assert_close(result.log_likelihood, exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(measured.per_image["elbo_nats"], exact, rtol=0, atol=1e-5)
    assert result.pareto.shares()["good"] == 1
    assert sum(measured.kl_by_site.values()) == pytest.approx(measured.kl_per_sample, abs=1e-5)


def test_the_evidence_of_two_layers_by_a_wrong_guide_is_within_its_error():
    pair = TwoLayers(width=1.5)
    exact = pair.evidence.log_prob(images().as_float().flatten(1).double())
    result = evidence(pair, images(), k=20_000)
    assert ((result.log_likelihood - exact).abs() < 5 * result.log_likelihood_mcse).all()


@pytest.mark.parametrize("guided", [False, True])
def test_an_enumerated_component_is_summed_exactly(guided):
    pair = Mixture(guided)
    joint = pair.log_joint(images().as_float())
    result, measured = evidence(pair, images(), k=2), bounds(pair, images())
    torch.testing.assert_close(result.log_likelihood, joint.logsumexp(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(measured.per_image["elbo_nats"], joint.logsumexp(-1), rtol=0, atol=1e-5)
    posterior = Traces(pair).draws(images().as_float(), 1).probabilities("y")
    torch.testing.assert_close(posterior.double(), joint.softmax(-1), rtol=0, atol=1e-5)
    assert measured.kl_by_site.keys() == {"y"}


class MixtureOfCodes(nn.Module):
    """p(c) p(z|c) p(x|z), with z drawn by the guide, and c in the model alone, or also in the guide, given z."""

    def __init__(self, guided=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.guided = guided
        self.locs = torch.tensor([-3.0, 0.0, 3.0])

    def log_p(self, z):
        """log p(c, z), the last dimension over c."""
        return dist.Normal(self.locs, 1.0).log_prob(z[..., None]) - torch.tensor(3.0).log()

    def model(self, x=None, beta=1.0, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.locs[c], 1.0))
            mean = z[..., None, None, None].expand(*z.shape, 1, 2, 2)
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(3), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(4 * x.mean((1, 2, 3)) - 2, 2.0))
            if self.guided:
                pyro.sample("c", dist.Categorical(logits=self.log_p(z)), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("guided", [False, True])
def test_values_of_an_enumerated_site_share_the_draws_of_the_sites_before_it(guided):
    pair, x = MixtureOfCodes(guided), images().as_float()
    with torch.random.fork_rng():
        draws = Traces(pair).draws(x, 40)
    z = draws.cases[0].values["z"]
    for case in draws.cases:
        torch.testing.assert_close(case.values["z"], z, rtol=0, atol=0)
    log_likelihood = dist.Normal(z[..., None, None, None], 0.5).log_prob(x).sum((2, 3, 4))
    log_q = dist.Normal(4 * x.mean((1, 2, 3)) - 2, 2.0).log_prob(z)
    expected = (log_likelihood + pair.log_p(z).logsumexp(-1) - log_q).double()
    torch.testing.assert_close(draws.log_weights(), expected, rtol=0, atol=1e-4)
    # With the exact p(c|z) in the guide, or c in the model alone, a draw's ELBO is its log-weight.
    elbo = -(draws.reconstruction() + sum(draws.kl().values()))
    torch.testing.assert_close(elbo.double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(draws.log_case_weights().exp().sum(0), torch.ones(40, 6))
    torch.testing.assert_close(draws.probabilities("c"), pair.log_p(z).softmax(-1).mean(0))
    with torch.random.fork_rng():
        torch.testing.assert_close(Traces(pair).means(x, 40, ("z",))["z"], z.mean(0))


def test_the_mean_of_a_site_is_over_the_values_of_an_enumerated_one_before_it():
    class GivenClass(nn.Module):
        """q(y|x) q(z|y), with z close to the value of y."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def model(self, x=None, beta=1.0, *, size=None):
            with pyro.plate("data", size if x is None else len(x)):
                pyro.sample("y", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                mean = z[..., None, None, None].expand(*z.shape, 1, 2, 2)
                pyro.sample("x", dist.Normal(mean, 0.5).to_event(3), obs=x)

        def guide(self, x, beta=1.0):
            logits = x.flatten(1)[:, :3]
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                pyro.sample("z", dist.Normal(y.float(), 1e-4))

    expected = images().as_float().flatten(1)[:, :3].softmax(-1) @ torch.arange(3.0)
    means = latent.site_means(GivenClass(), images())["z"]
    torch.testing.assert_close(means, expected[:, None], rtol=0, atol=1e-3)


@pytest.mark.parametrize("guided", [False, True])
def test_means_of_sites_decode_no_image_but_one_which_tells_the_sites(guided):
    decoded = []

    class Counted(MixtureOfCodes):
        def model(self, x=None, beta=1.0, *, size=None):
            decoded.append(len(x))
            super().model(x, beta, size=size)

    assert latent.site_means(Counted(guided), images(250))["z"].shape == (250, 1)
    assert decoded == [1] * (1 + 1 + 3)  # a check of the shape; then at a draw of c, and at each of its values


def test_a_scalar_site_has_codes_and_evidence():
    metrics = evaluate(MixtureOfCodes(), images(30), metrics=["bounds", "codes", "evidence"], k=50)
    assert metrics.active_units_by_site == {"z": 1}
    assert -metrics.nll_nats > metrics.elbo_nats
    assert latent.codes(MixtureOfCodes(), images()).shape == (6, 1)


def test_elbo_and_kl_to_the_exact_posterior_are_the_evidence():
    pair, x = Mixture(True, wrong=0.8), images().as_float()
    joint = pair.log_joint(x)
    q = (joint + 0.8 * torch.arange(3.0)).log_softmax(-1)
    kl = (q.exp() * (q - joint.log_softmax(-1))).sum(-1)
    assert kl.min() > 0.01
    elbo = bounds(pair, images()).per_image["elbo_nats"]
    torch.testing.assert_close(elbo + kl, joint.logsumexp(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(evidence(pair, images(), k=1).log_likelihood, joint.logsumexp(-1), rtol=0, atol=1e-5)


def test_a_vae_without_its_parts_has_the_numbers_that_its_parts_give():
    vae = build(Spec(latent_dim=3, image_shape=(1, 2, 2), dataset="own", hidden=(8,)))

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.likelihood = vae, vae.likelihood

        def model(self, x=None, beta=1.0, *, size=None):
            return vae.model(x, beta, size=size)

        def guide(self, x, beta=1.0):
            vae.guide(x, beta)

    settings = {"binarization": "threshold", "metrics": ["bounds", "codes", "evidence"], "k": 2000, "samples": 500}
    of_parts, of_traces = (evaluate(model, images(), **settings) for model in (vae, Alone()))
    assert of_traces.mse_per_pixel == pytest.approx(of_parts.mse_per_pixel, abs=1e-6)
    for name, tolerance in (("nll_nats", 0.01), ("kl_per_sample", 0.02), ("reconstruction_nats", 0.02)):
        assert getattr(of_traces, name) == pytest.approx(getattr(of_parts, name), abs=tolerance), name
    torch.testing.assert_close(latent.codes(Alone(), images()), latent.codes(vae, images()))
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(latent.decode_codes(Alone(), z), latent.decode_codes(vae, z))
    assert latent.prior_samples(Alone(), 3).shape == (3, 1, 2, 2)


def test_codes_are_of_the_site_that_is_asked_for():
    pair = TwoLayers()
    assert latent.codes(pair, images()).shape == (6, 3)
    torch.testing.assert_close(latent.codes(pair, images(), site="z2"), latent.codes(pair, images())[:, :2] * 0.4)
    means = latent.site_means(pair, images(), draws=2000)
    torch.testing.assert_close(means["z1"], images().as_float().flatten(1)[:, :3], rtol=0, atol=0.05)
    start, end = images(2).as_float()
    assert latent.interpolate(pair, start, end, 4).shape == (4, 1, 2, 2)
    metrics = evaluate(pair, images(400), metrics=["codes"])
    assert metrics.active_units_by_site == {"z1": 3, "z2": 2}  # variances of 1/12, and of 0.16 / 12 = 0.013
    assert metrics.active_units == 5


def test_arguments_that_training_alone_is_told_are_withheld():
    seen = []

    class Told(Mixture):
        withheld = ("labels",)

        def model(self, x=None, beta=1.0, labels=None, *, size=None):
            seen.append(labels)
            return super().model(x, beta, size=size)

        def guide(self, x, beta=1.0, labels=None):
            seen.append(labels)
            super().guide(x, beta)

    labelled = Images(images().pixels, torch.arange(6))
    metrics = evaluate(Told(True), labelled, metrics=["bounds"])
    assert set(seen) == {None}
    assert "conditional_on" not in metrics.provenance["elbo_nats"]


class Broken(nn.Module):
    def __init__(self, **programs):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        vars(self).update(programs)


def program(*sites):
    """A program with these sites in its plate."""

    def run(x=None, beta=1.0, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            for site in sites:
                site(x)

    return run


def z(x):
    pyro.sample("z", dist.Normal(0.0, 1.0))


def point(x):
    pyro.sample("z", dist.Delta(torch.zeros(())))


def pixels(x):
    pyro.sample("x", dist.Normal(torch.zeros(1, 2, 2), 1.0).to_event(3), obs=x)


def outside(x=None, beta=1.0, *, size=None):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    program(z)(x, beta, size=size)


def with_outside(x=None, beta=1.0, *, size=None):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    program(z, pixels)(x, beta, size=size)


def in_pixels(x):
    with pyro.plate("pixels", 4, dim=-2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def enumerated_in_pixels(x):
    with pyro.plate("pixels", 4, dim=-2):
        pyro.sample("c", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})


def subsampled(x=None, beta=1.0, *, size=None):
    with pyro.plate("data", 600, subsample=torch.arange(2)):
        z(x)
        pixels(x)


def half_observed(x):
    obs_mask = torch.tensor([True, False])[:, None, None, None]
    p = dist.Normal(torch.zeros(1, 2, 2), 1.0).expand([2, 1, 2, 2]).to_event(3)
    pyro.sample("x", p, obs=x, obs_mask=obs_mask[:, 0, 0, 0])


def of_unobserved(x):
    pyro.sample("x_unobserved", dist.Normal(torch.zeros(2, 1, 2, 2), 1.0).to_event(3))


@pytest.mark.parametrize(
    ("model", "guide", "metrics", "message"),
    [
        (program(in_pixels, pixels), program(in_pixels), ["bounds"], "the latent site z in other plates"),
        (program(enumerated_in_pixels, pixels), program(), ["bounds"], "the latent site c in other plates"),
        (program(half_observed), program(of_unobserved), ["bounds"], "a part of the site x observed"),
        (program(z, pixels), program(), ["bounds"], "the latent site z in `model` alone"),
        (program(z, pixels), outside, ["bounds"], "the latent site w in `guide` alone"),
        (with_outside, outside, ["bounds"], "the site w outside of the plate `data`"),
        (program(z), program(z), ["bounds"], "observed sites none', expected a site `x` of the images"),
        (program(z, pixels), program(point), ["evidence"], "a point for q(z|x)"),
        (lambda x: None, program(z), ["bounds"], "called with x and beta by position"),
    ],
)
def test_programs_that_cannot_be_read_are_named(model, guide, metrics, message):
    with pytest.raises(InputError) as caught:
        evaluate(Broken(model=model, guide=guide), images(), metrics=metrics)
    assert message in str(caught.value)


def test_a_point_has_reconstructions_and_no_kl():
    metrics = evaluate(Broken(model=program(z, pixels), guide=program(point)), images(), metrics=["bounds"])
    assert metrics.mse_per_pixel > 0
    assert metrics.kl_per_sample is None
    assert metrics.elbo_nats is None


def test_plates_inside_that_of_the_images_are_summed():
    def pixelwise(x=None, beta=1.0, *, size=None):
        n = size if x is None else len(x)
        with pyro.plate("data", n, dim=-1):
            z(x)
            with pyro.plate("pixels", 4, dim=-2):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=None if x is None else x.flatten(1).T)

    x = images().as_float()
    traces = Traces(Broken(model=pixelwise, guide=program(z)))
    traces.check(x)
    with torch.random.fork_rng():
        draws = traces.draws(x, 3)
    expected = dist.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(-1)
    torch.testing.assert_close(draws.log_weights().float(), expected.expand(3, -1))


def test_the_mean_of_pixels_in_a_plate_of_their_own_is_that_of_their_image():
    def exact(x=None, beta=1.0, *, size=None):
        with pyro.plate("data", len(x), dim=-1):
            code = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            with pyro.plate("pixels", 4, dim=-2):
                pyro.sample("x", dist.Normal(code.T, 0.1), obs=x.flatten(1).T)

    def guide(x, beta=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.flatten(1), 1e-6).to_event(1))

    measured = bounds(Broken(model=exact, guide=guide), images())
    assert measured.mse_per_pixel == pytest.approx(0, abs=1e-9)
    assert measured.mse_per_pixel_sampled == pytest.approx(0, abs=1e-9)


def test_parameters_are_left_in_no_store_and_read_where_they_are():
    def fitted(x, beta=1.0):
        location = pyro.param("location", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(location, 1.0))

    x = images().as_float()
    with pyro.get_param_store().scope():
        Traces(Broken(model=program(z, pixels), guide=fitted)).draws(x, 1)
        assert "location" not in pyro.get_param_store()
        pyro.param("location", torch.tensor(5.0))
        with torch.random.fork_rng():
            draws = Traces(Broken(model=program(z, pixels), guide=fitted)).draws(x, 4)
        assert draws.cases[0].values["z"].mean() > 4


def test_a_point_mass_on_a_code_is_a_probability_and_what_it_determines_adds_nothing():
    class Coded(nn.Module):
        """A uniform code of 4, the vector that it stands for, and an image by that."""

        def __init__(self):
            super().__init__()
            self.vectors = nn.Parameter(torch.linspace(0, 1, 4))

        def model(self, x=None, beta=1.0, *, size=None):
            with pyro.plate("data", size if x is None else len(x)):
                code = pyro.sample("code", dist.Categorical(torch.ones(4)))
                vector = pyro.sample("vector", dist.Delta(self.vectors[code]))
                mean = vector[..., None, None, None].expand(*vector.shape, 1, 2, 2)
                pyro.sample("x", dist.Normal(mean, 0.3).to_event(3), obs=x)

        def guide(self, x, beta=1.0):
            nearest = (x.flatten(1).mean(-1, keepdim=True) - self.vectors).abs().argmin(-1)
            with pyro.plate("data", len(x)):
                code = pyro.sample("code", dist.Delta(nearest))
                pyro.sample("vector", dist.Delta(self.vectors[code]))

    pair, x = Coded(), images().as_float()
    nearest = (x.flatten(1).mean(-1, keepdim=True) - pair.vectors).abs().argmin(-1)
    means = pair.vectors[nearest][:, None, None, None].detach()
    expected = dist.Normal(means, 0.3).log_prob(x).sum((1, 2, 3)) - torch.tensor(4.0).log()
    measured = bounds(pair, images())
    torch.testing.assert_close(measured.per_image["elbo_nats"], expected.double(), rtol=0, atol=1e-5)
    assert measured.kl_by_site == {"code": pytest.approx(torch.tensor(4.0).log().item()), "vector": 0.0}
    assert evaluate(pair, images(), metrics=["codes"]).active_units is None
    with pytest.raises(InputError, match="a point for q"):  # all its weights are the same: the ELBO
        evidence(pair, images(), k=2)


def test_an_evidence_is_not_resumed_with_other_parameters_of_the_store(tmp_path):
    def scaled(x=None, beta=1.0, *, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z(x)
            scale = pyro.param("scale", torch.tensor(0.3))
            pyro.sample("x", dist.Normal(torch.zeros(1, 2, 2), scale).to_event(3), obs=x)

    results = []
    for scale in (0.3, 1.5):
        with pyro.get_param_store().scope():
            pyro.param("scale", torch.tensor(scale))
            pair = Broken(model=scaled, guide=program(z))
            results.append(evidence(pair, images(), k=3, partial=tmp_path / "partial.safetensors").nll_nats)
    assert abs(results[0] - results[1]) > 0.1
