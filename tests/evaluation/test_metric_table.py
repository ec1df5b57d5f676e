"""The one table of metrics, and those that it serves."""

import dataclasses
import subprocess
import sys

from pyro_vae import Spec
from pyro_vae.evaluation import Metrics
from pyro_vae.experiments import tables
from pyro_vae.metric_table import DETAILS, ERRORS, METRICS, SUMS, metric_named


def test_every_field_of_metrics_is_in_the_table_and_the_reverse():
    fields = {field.name for field in dataclasses.fields(Metrics)}
    parts = [METRICS.keys() - set(SUMS), ERRORS.keys() - METRICS.keys(), DETAILS.keys()]
    assert set().union(*parts) == fields
    assert sum(map(len, parts)) == len(fields)
    assert set(SUMS) <= METRICS.keys()


def test_every_entry_is_complete():
    for name, metric in (METRICS | ERRORS | DETAILS).items():
        assert metric.label, name
        assert metric.meaning, name
        assert metric.direction in ("lower", "higher", "neither"), name
        assert (metric.unit == "nats") == (name.endswith("_nats") or name in NATS or name in ERRORS_IN_NATS), name
        assert metric.error in ("", *ERRORS), name
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)


NATS = {"kl_per_sample", "kl_by_site", "kl_prior_at_start", "nll_mcse", "nll_by_k", "nll_diagnostics"}
ERRORS_IN_NATS = {metric.error for name, metric in METRICS.items() if name in NATS or name.endswith("_nats")}


def test_rows_are_those_of_the_table_in_its_order():
    numbers = {name: 1.0 for name in METRICS if name not in (*SUMS, "pareto_k")}
    rows = Metrics(**numbers, elbo_se=0.25).rows()
    assert [label for label, _, _ in rows] == [METRICS[name].label for name in numbers]
    assert ("ELBO", "1.00 ± 0.25", METRICS["elbo_nats"].meaning) in rows


def test_tables_of_studies_are_headed_by_labels_with_units():
    text = tables.to_markdown(
        ["elbo_nats", "frechet", "mine"], [{"model": "a", "elbo_nats": -1.0, "frechet": 2.0, "mine": 3.0}]
    )
    assert text.splitlines()[0] == "| model | ELBO (nats) | Frechet distance | mine |"


def test_a_column_that_the_table_lacks_has_its_name():
    assert metric_named("mine").heading == "mine"


def test_it_needs_no_torch():
    code = "import sys, pyro_vae.metric_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_log_likelihoods_given_something_are_compared_with_those_given_the_same_alone():
    plain, half = Spec(), Spec(model={"kind": "conditional", "condition": "quadrants-2"})
    by_label = [Spec(model="conditional"), Spec(model={"kind": "conditional", "condition": "label"})]
    for name in ("elbo_nats", "nll_nats", "bits_per_dimension", "mse_per_pixel", "mse_per_pixel_sampled"):
        groups = [METRICS[name].group(vars(spec)) for spec in (plain, half, *by_label)]
        assert len(set(groups)) == 3, name
        assert groups[2] == groups[3]
    assert METRICS["frechet"].group(vars(plain)) == METRICS["frechet"].group(vars(by_label[0]))


def test_of_a_conditional_model_the_rows_say_what_the_densities_are_given():
    names = ("mse_per_pixel", "kl_per_sample", "elbo_nats", "nll_nats", "bits_per_dimension", "active_units")
    given = {"conditional_on": ["quadrants-2"]}
    metrics = Metrics(**dict.fromkeys(names, 1.0), kl_by_site={"z": 1.0}, provenance=dict.fromkeys(names, given))
    noted = {label for label, _, meaning in metrics.rows() if "; of the unseen pixels, given quadrants-2" in meaning}
    assert noted == {"MSE per pixel", "KL", "ELBO", "NLL", "bits per dimension"}
    of_sites = Metrics(kl_by_site={"z": 1.0}, provenance={"kl_by_site": {"conditional_on": ["labels"]}})
    ((_, value, meaning),) = of_sites.rows()
    assert value == "z 1.00"
    assert meaning.endswith("; given labels")


def test_an_exact_likelihood_has_no_samples_to_count():
    source = {"exact": True, "k": 50, "n": 12}
    ((_, _, meaning),) = Metrics(nll_nats=1.0, provenance={"nll_nats": source}).rows()
    assert "exact" in meaning
    assert "(12 images)" in meaning
    assert "importance" not in meaning
