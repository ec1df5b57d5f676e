"""Verdicts of a study: a claim holds only where each step is beyond noise, and is else not decided."""

import pytest
import torch

from pyro_vae import Spec
from pyro_vae.evaluation import Metrics, PerImage
from pyro_vae.experiments import tables
from pyro_vae.experiments.claims import verdict
from pyro_vae.experiments.study import Claim
from pyro_vae.experiments.tables import Scores

FLOWS = Claim("4 flow layers reconstruct better than none", "mse_per_pixel", ("flow4", "vanilla"))


def runs(metric, **models):
    """Numbers of each seed, as `metrics.json` has them."""
    return Scores({name: [{metric: value} for value in values] for name, values in models.items()})


def single(**models):
    """One run of each model, `(value, se)`, as studies of earlier versions have them."""
    return Scores({name: [{"elbo_nats": value, "elbo_se": se}] for name, (value, se) in models.items()})


def paired(difference, sd, n=400):
    """One run each, whose squared errors differ by this much on average, and by sd over images; the images by 1."""
    generator = torch.Generator().manual_seed(0)
    images, own = torch.randn(n, generator=generator).double(), torch.randn(n, generator=generator).double()
    own = difference + sd * (own - own.mean()) / own.std()
    tables = {
        name: [Metrics(per_image={"bounds": PerImage(torch.arange(n), {"mse_per_pixel": values})})]
        for name, values in (("flow4", images), ("vanilla", images + own))
    }
    numbers = {
        name: [
            {"mse_per_pixel": metrics.per_image["bounds"].values["mse_per_pixel"].mean().item()} for metrics in several
        ]
        for name, several in tables.items()
    }
    return Scores(numbers, tables)


def test_a_difference_within_the_spread_of_seeds_decides_nothing():
    """The numbers of the first Fashion-MNIST study: .01568 and .01577, deviations .0002 and .0001, three seeds."""
    flow, vanilla = 0.015681304, 0.015768315
    decided = verdict(
        FLOWS,
        runs(
            "mse_per_pixel",
            flow4=[flow - 0.00021, flow, flow + 0.00021],
            vanilla=[vanilla - 0.00011, vanilla, vanilla + 0.00011],
        ),
    )
    assert decided["sds"] == pytest.approx([0.00021, 0.00011])
    assert decided["means"][0] < decided["means"][1]
    assert decided["verdict"] == "not decided"
    assert "within noise" in decided["reason"]
    (step,) = decided["steps"]
    assert step["difference"] == pytest.approx(0.000087, abs=1e-6)
    assert step["se"] == pytest.approx((0.00021**2 / 3 + 0.00011**2 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (runs("mse_per_pixel", flow4=[0.010, 0.011, 0.0105], vanilla=[0.020, 0.021, 0.0205]), "holds"),
        (runs("mse_per_pixel", vanilla=[0.010, 0.011, 0.0105], flow4=[0.020, 0.021, 0.0205]), "does not hold"),
        (runs("mse_per_pixel", flow4=[0.010, 0.011], vanilla=[0.012, 0.014]), "not decided"),  # t of 1 df
        (runs("mse_per_pixel", flow4=[0.01], vanilla=[0.02]), "not decided"),  # one seed, no error of an image
        (runs("mse_per_pixel", flow4=[0.01, 0.011, 0.012], vanilla=[0.02]), "not decided"),
        (paired(0.3, 2.0), "holds"),  # three paired errors; the separate ones are .05, and would say so as well
        (paired(0.1, 0.4), "holds"),  # five paired errors, 1.3 separate ones
        (paired(0.1, 2.0), "not decided"),
        (paired(-0.1, 0.4), "does not hold"),
    ],
)  # fmt: skip
def test_three_verdicts(scores, expected):
    assert verdict(FLOWS, scores)["verdict"] == expected


def test_one_seed_without_errors_is_said():
    decided = verdict(FLOWS, runs("mse_per_pixel", flow4=[0.01], vanilla=[0.02]))
    assert decided["steps"] == [None]
    assert decided["reason"] == "not decided by one seed of a model: no error of a single run is known"


@pytest.mark.parametrize(
    ("error", "expected"), [(None, "not decided"), (0.0, "not decided"), (0.5, "not decided"), (0.1, "holds")]
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_seeds_that_agree_are_no_error_of_zero(seeds, error, expected):
    """A count of 10 by each seed, and of 11."""
    claim = Claim("More are active", "active_units", ("few", "many"))
    errors = {} if error is None else {"active_units_se": error}
    numbers = {name: [{"active_units": value, **errors}] * seeds for name, value in (("few", 10), ("many", 11))}
    assert verdict(claim, Scores(numbers))["verdict"] == expected
    squared = verdict(FLOWS, runs("mse_per_pixel", flow4=[0.1] * 3, vanilla=[0.1000001] * 3))
    assert squared["reason"] == "not decided: the seeds of each model agree, and no other error is known"


def test_one_seed_with_paired_values_is_of_these_trainings():
    assert verdict(FLOWS, paired(0.1, 0.4))["reason"].endswith("one seed each: of these trainings only")


def test_stored_standard_errors_decide_where_nothing_else_is_known():
    claim = Claim("More is better", "elbo_nats", ("few", "many"))
    far, near = single(few=(-139.0, 0.5), many=(-96.0, 0.3)), single(few=(-472.1, 0.09), many=(-472.0, 0.09))
    assert verdict(claim, far)["verdict"] == "holds"
    assert verdict(claim, far)["steps"][0]["error_of"] == "images, unpaired"
    assert verdict(claim, near)["verdict"] == "not decided"


def test_each_step_must_hold():
    claim = Claim("It rises", "elbo_nats", ("a", "b", "c"))
    rises, stays, falls = (single(a=(-9.0, 0.1), b=(-8.0, 0.1), c=(last, 0.1)) for last in (-7.0, -7.99, -9.5))
    assert [verdict(claim, scores)["verdict"] for scores in (rises, stays, falls)] == [
        "holds",
        "not decided",
        "does not hold",
    ]
    assert verdict(claim, single(a=(-9.0, 0.1), b=(-8.0, 0.1))) is None  # before all are done


def test_two_metrics_of_one_model_are_compared_over_seeds():
    claim = Claim("The share rises", ("first", "last"), ("a", "a"))
    numbers = [{"first": 0.1 + noise, "last": 0.2 - noise} for noise in (0.0, 0.01, 0.02)]
    assert verdict(claim, Scores({"a": numbers}))["verdict"] == "holds"
    assert verdict(claim, Scores({"a": numbers[:1]}))["verdict"] == "not decided"


def test_differences_are_of_models_whose_numbers_mean_the_same():
    models = {
        "a": Spec(image_shape=(1, 8, 8)),
        "b": Spec(image_shape=(1, 8, 8), latent_dim=4),
        "other": Spec(image_shape=(1, 8, 8), likelihood="gaussian"),
    }
    scores = single(a=(-90.0, 0.3), b=(-89.7, 0.4), other=(700.0, 1.0))
    (difference,) = tables.differences(models, ("elbo_nats", "kl_per_sample"), scores)
    assert (difference.first, difference.second, difference.difference, difference.se) == (
        "a",
        "b",
        pytest.approx(0.3),
        pytest.approx(0.5),
    )
    text = tables.differences_to_markdown([difference])
    assert "| b | a | (+0.3 ± 0.5) |" in text
    assert tables.differences_to_markdown([]) == ""


@pytest.mark.parametrize("metric", ["mse_per_pixel", "mse_per_pixel_sampled", "squared_error_loss"])
def test_squared_errors_of_binarized_and_of_grey_pixels_are_of_different_data(metric):
    models = {"grey": Spec(image_shape=(1, 8, 8)), "binary": Spec(image_shape=(1, 8, 8), binarization="static")}
    scores = runs(metric, grey=[0.010, 0.011, 0.0105], binary=[0.020, 0.021, 0.0205])
    assert tables.differences(models, (metric,), scores) == []
    models["binary"] = models["grey"]
    assert len(tables.differences(models, (metric,), scores)) == 1


def test_probabilities_of_256_levels_are_one_group():
    shape = (1, 8, 8)
    models = {
        "logistic": Spec(image_shape=shape, likelihood={"kind": "discretized-logistic", "components": 3}),
        "gaussian": Spec(image_shape=shape, likelihood="discretized-gaussian"),
        "density": Spec(image_shape=shape, likelihood="gaussian-learned", dequantize=True),
    }
    scores = single(logistic=(-230.0, 1.0), gaussian=(-390.0, 2.0), density=(45.0, 0.5))
    (difference,) = tables.differences(models, ("elbo_nats",), scores)
    assert (difference.first, difference.second, difference.difference) == (
        "logistic",
        "gaussian",
        pytest.approx(-160.0),
    )


def test_the_summed_squared_error_is_of_models_whose_error_is_of_all_pixels():
    numbers = {"mse_per_pixel": 0.25, "kl_per_sample": 2.0}
    whole, half = (
        Spec(image_shape=(1, 8, 8), model={"kind": "conditional", "condition": condition})
        for condition in ("label", "quadrants-2")
    )
    assert tables.losses(numbers, whole) == {"squared_error_loss": 18.0}
    assert tables.losses(numbers, half) == {}
