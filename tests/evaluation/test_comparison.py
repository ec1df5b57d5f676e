"""Paired differences: the standard error is that of the differences, and of the seeds where there are several."""

import csv
import dataclasses
import json
import math
import re

import pytest
import torch

from pyro_vae import Spec, build, evaluate
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.evaluation import Metrics, PerImage, compare
from pyro_vae.experiments import run

SETTINGS = {"binarization": "static", "likelihood": "Bernoulli"}


def result(values, images=None, metric="elbo_nats", **settings):
    values = torch.as_tensor(values, dtype=torch.float64)
    images = torch.arange(len(values)) if images is None else torch.as_tensor(images)
    return Metrics(per_image={"bounds": PerImage(images, {metric: values}, SETTINGS | settings)})


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_error_is_that_of_the_differences():
    shared, own = 10 * normal(400), normal(400, seed=1)
    a, b = shared - 100, shared - 100 + own + 0.5
    (difference,) = compare({"a": result(a), "b": result(b)})
    assert difference.difference == pytest.approx(0.5 + own.mean().item())
    assert difference.se == pytest.approx(own.std().item() / 20)
    assert difference.se < 0.2 * math.hypot(a.std() / 20, b.std() / 20)  # what two separate errors would imply
    assert difference.z == pytest.approx(difference.difference / difference.se)
    assert difference.beyond_noise
    assert (difference.n, difference.seeds, difference.error_of) == (400, (1, 1), "images, paired")
    assert difference.interval == pytest.approx(
        [difference.difference - 2 * difference.se, difference.difference + 2 * difference.se]
    )


def test_images_are_matched_by_their_pixels_wherever_they_stand():
    a, b = normal(50), normal(50, seed=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))[:30]
    (difference,) = compare({"a": result(a), "b": result(b[order], order)})
    expected = (b - a)[order]
    assert (difference.n, difference.difference) == (30, pytest.approx(expected.mean().item()))
    assert difference.se == pytest.approx(expected.std().item() / 30**0.5)


def test_copies_of_an_image_are_each_compared_once():
    (difference,) = compare({"a": result([1.0, 2.0, 4.0], [7, 7, 8]), "b": result([5.0, 5.0, 5.0, 9.0], [8, 7, 7, 7])})
    assert (difference.n, difference.difference) == (3, pytest.approx((4 + 3 + 1) / 3))


def test_several_models_are_compared_with_the_first():
    first, second = compare({"a": result([1.0, 2.0]), "b": result([2.0, 4.0]), "c": result([0.0, 1.0])})
    assert (first.first, first.second, second.first, second.second) == ("a", "b", "a", "c")
    assert (first.difference, second.difference) == (1.5, -1.0)
    assert second.se == 0
    assert second.beyond_noise  # by the same amount on each image
    (same,) = compare({"a": result([1.0, 2.0]), "b": result([1.0, 2.0])})
    assert (same.z, same.beyond_noise) == (0.0, False)


def seeds_of(images, count, generator):
    """Values of a model whose mean varies over seeds with sd 1, and each of its images with sd 3."""
    shift, own = torch.randn(count, 1, generator=generator), 3 * torch.randn(count, len(images), generator=generator)
    return [result(values) for values in (images + shift + own).double()]


def test_seeds_widen_the_error_and_its_quantile():
    """Both models are the same: 95 of 100 comparisons are within noise. By images alone, hardly any would be."""
    generator = torch.Generator().manual_seed(0)
    images, within, within_images = 30 * torch.randn(500, generator=generator), 0, 0
    for _ in range(200):
        several = {name: seeds_of(images, 3, generator) for name in ("a", "b")}
        (difference,) = compare(several)
        within += not difference.beyond_noise
        (single,) = compare({name: results[0] for name, results in several.items()})
        within_images += not single.beyond_noise
        assert difference.critical > 2
        assert difference.error_of == "images, paired, and seeds"
    assert within >= 0.95 * 200 - 3 * (200 * 0.05 * 0.95) ** 0.5
    assert within_images < 0.5 * 200


@pytest.mark.parametrize(
    ("results", "metric", "message"),
    [
        ({"a": result([1.0, 2.0])}, "elbo_nats", "results: given .*, expected the results of at least two models"),
        ([result([1.0, 2.0])] * 2, "elbo_nats", "results: given"),
        ({"a": result([1.0, 2.0]), "b": result([1.0, 2.0])}, "nll_nats", "metric of a: given 'nll_nats'"),
        ({"a": result([1.0, 2.0]), "b": Metrics()}, "elbo_nats", "metric of b: .* evaluate it again"),
        ({"a": result([1.0, 2.0]), "b": 3}, "elbo_nats", "b: given 3, expected Metrics"),
        ({"a": result([1.0, 2.0]), "b": []}, "elbo_nats", r"b: given \[\]"),
        ({"a": result([1.0, 2.0]), "b": result([1.0, 2.0], [7, 8])}, "elbo_nats", "images: given '0 in common of a"),
        (
            {"a": result([1.0, 2.0]), "b": result([1.0, 2.0], binarization="threshold")},
            "elbo_nats",
            "binarization of b: given 'threshold', expected 'static'",
        ),
        (
            {"a": result([1.0, 2.0]), "b": result([1.0, 2.0], likelihood="Gaussian")},
            "elbo_nats",
            "likelihood of b: given 'Gaussian', .*; across likelihoods compare bits_per_dimension",
        ),
        ({"a": result([1.0, 2.0]), "b": result([1.0, 2.0], k=10)}, "elbo_nats", "k of b: given 10"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(results, metric, message):
    with pytest.raises(InputError, match=message):
        compare(results, metric)


def test_squared_errors_are_compared_across_likelihoods():
    a, b = result([0.1, 0.2], metric="mse_per_pixel"), result([0.2, 0.4], metric="mse_per_pixel", likelihood="Gaussian")
    assert compare({"a": a, "b": b}, "mse_per_pixel")[0].difference == pytest.approx(0.15)


def test_evaluate_returns_the_values_of_single_images(digits):
    options = {"metrics": ["bounds", "evidence"], "binarization": "dynamic", "k": 30, "evidence_images": 50}
    metrics = evaluate(build(Spec(latent_dim=2)), digits.test, device="cpu", **options)
    of_bounds, of_evidence = metrics.per_image["bounds"], metrics.per_image["evidence"]
    for name in ("elbo_nats", "mse_per_pixel", "mse_per_pixel_sampled", "reconstruction_nats", "kl_per_sample"):
        assert of_bounds.values[name].mean().item() == getattr(metrics, name)
    assert of_evidence.values["nll_nats"].mean().item() == metrics.nll_nats
    assert len(of_evidence.images) == 50
    assert set(of_evidence.images.tolist()) <= set(of_bounds.images.tolist())
    assert "per_image" not in metrics.to_dict()
    json.dumps(metrics.to_dict())
    # The ELBO of the images that the NLL is of: a bound on the same mean, which no other images blur.
    assert metrics.elbo_of_evidence_images_nats < -metrics.nll_nats + 3 * metrics.nll_se
    places = [of_bounds.images.tolist().index(key) for key in of_evidence.images.tolist()]
    same_images = of_bounds.values["elbo_nats"][places].mean().item()
    assert metrics.elbo_of_evidence_images_nats == pytest.approx(same_images, abs=0.5)  # other noise, the same images


def test_the_binarization_of_training_and_of_evaluation_is_said(digits):
    metrics = evaluate(build(Spec(latent_dim=2)), digits.test, metrics=["bounds"], binarization="dynamic", device="cpu")
    source = metrics.provenance["elbo_nats"]
    assert (source["binarization"], source["trained_with"]) == ("static", "dynamic")
    meaning = {label: meaning for label, _, meaning in metrics.rows()}["ELBO"]
    assert "trained with dynamic binarization, evaluated on one fixed draw per image" in meaning
    other = evaluate(build(Spec(latent_dim=2)), digits.test, metrics=["bounds"], binarization="threshold", device="cpu")
    assert "trained with" not in {label: meaning for label, _, meaning in other.rows()}["ELBO"]


# --- run folders and the command -------------------------------------------------------------------------------------

SMALL = ["--hidden", "8", "--binarization", "static", "--epochs", "1", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models of two seeds each, trained and evaluated by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    for name, dimensions in (("small", "2"), ("large", "4")):
        for seed in ("0", "1"):
            out = folder / name / f"seed-{seed}"
            assert main(["train", "--latent-dim", dimensions, "--seed", seed, *SMALL, "--out", str(out)]) == 0
    return folder


def test_a_run_folder_keeps_the_values_of_single_images(runs):
    folder = runs / "small" / "seed-0"
    stored, metrics = run.read_per_image(folder), run.read_metrics(folder)
    assert stored["bounds"].values["elbo_nats"].mean().item() == metrics["elbo_nats"]
    assert stored["bounds"].settings["binarization"] == "static"
    assert not list(folder.glob(".per_image*"))


def test_groups_are_added_and_replaced(tmp_path):
    first, second = result([1.0, 2.0]), result([3.0, 4.0])
    evidence = Metrics(per_image={"evidence": PerImage(torch.arange(2), {"nll_nats": torch.ones(2)}, {"k": 5})})
    for metrics in (first, evidence, second):
        run.add_metrics(tmp_path, metrics)
    stored = run.read_per_image(tmp_path)
    assert stored.keys() == {"bounds", "evidence"}
    assert stored["bounds"].values["elbo_nats"].tolist() == [3.0, 4.0]
    assert stored["evidence"].settings == {"k": 5}


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 100])
def test_a_damaged_file_is_bad_input(tmp_path, content):
    (tmp_path / "per_image.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="per-image values: given .*per_image.safetensors"):
        run.read_per_image(tmp_path)


def test_command(runs, capsys, tmp_path):
    folders = [str(runs / name) for name in ("small/seed-0", "small/seed-1", "large/seed-0")]
    out = tmp_path / "found.json"
    assert main(["compare", *folders, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "ELBO: difference from" in printed
    assert "359 common images" in " ".join(printed.split())
    assert ("beyond noise" in printed) or ("within noise" in printed)
    rows = json.loads(out.read_text())
    tables = [run.read_per_image(folder)["bounds"].values["elbo_nats"] for folder in folders]
    assert rows[0]["difference"] == pytest.approx((tables[1] - tables[0]).mean().item())
    assert rows[1]["se"] == pytest.approx((tables[2] - tables[0]).std().item() / 359**0.5)
    assert rows[1]["images"] == 359


def test_command_with_seeds_and_csv(runs, tmp_path):
    out = tmp_path / "found.csv"
    assert main(["compare", str(runs / "small"), str(runs / "large"), "--metric", "mse", "--out", str(out)]) == 0
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert (row["metric"], row["error_of"]) == ("mse_per_pixel", "images, paired, and seeds")
    assert (row["seeds_first"], row["seeds_second"]) == ("2", "2")
    low, difference, high = (float(row[name]) for name in ("interval_low", "difference", "interval_high"))
    assert low < difference < high


def test_where_one_model_has_one_seed_the_error_is_said_to_be_of_these_trainings(runs, capsys):
    assert main(["compare", str(runs / "small" / "seed-0"), str(runs / "large")]) == 0
    assert "another seed may differ more" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", str(runs / "small"), str(runs / "large")]) == 0
    assert "another seed may differ more" not in " ".join(capsys.readouterr().out.split())


def test_an_autoencoder_is_compared_by_its_squared_error(runs, tmp_path, capsys):
    """By default: it has no ELBO, with which a VAE is compared."""
    squared = PerImage(torch.arange(3), {"mse_per_pixel": torch.tensor([1.0, 2.0, 3.0])}, SETTINGS)
    spec = (runs / "small" / "seed-0" / "spec.json").read_text()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(spec.replace('"vae"', '"autoencoder"'))
        run.add_metrics(tmp_path / name, Metrics(per_image={"bounds": squared}))
    assert main(["compare", str(tmp_path / "first"), str(tmp_path / "second")]) == 0
    assert "MSE" in capsys.readouterr().out
    assert main(["compare", str(runs / "small"), str(runs / "large")]) == 0
    assert "ELBO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small/seed-0"], "runs: given 1, expected at least two"),
        (["small/seed-0", "small/seed-0"], "no two are the same"),
        (["small/seed-0", "nothing"], "expected a run folder with a spec.json"),
        (["small/seed-0", "large/seed-0", "--metric", "nll"], "evaluate RUN --metrics evidence"),
        (["small/seed-0", "large/seed-0", "--metric", "bits"], "evaluate RUN --metrics evidence"),
        (["small/seed-0", "large/seed-0", "--metric", "elbow"], "did you mean 'elbo'"),
        (["small/seed-0", "large/seed-0", "--out", "x.txt"], "ends in .csv or .json"),
        (
            ["small/seed-0", "old"],
            "a run with per-image values; `pyro-vae evaluate RUN --metrics bounds` adds it",
        ),
        (
            ["small/seed-0", "evidence-only"],
            "--metric for evidence-only: given 'elbo', .* evaluate RUN --metrics bounds",
        ),
        (["small/seed-0", "threshold"], "binarization of .*threshold: given 'threshold', expected 'static'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(runs, capsys, arguments, message, monkeypatch):
    monkeypatch.chdir(runs)
    spec = (runs / "small" / "seed-0" / "spec.json").read_text()
    for name in ("old", "threshold", "evidence-only"):
        (runs / name).mkdir(exist_ok=True)
        (runs / name / "spec.json").write_text(spec)
    table = run.read_per_image(runs / "small" / "seed-0")["bounds"]
    other = dataclasses.replace(table, settings=dict(table.settings) | {"binarization": "threshold"})
    run.add_metrics(runs / "threshold", Metrics(per_image={"bounds": other}))
    nll = PerImage(table.images, {"nll_nats": torch.ones(len(table.images))})
    run.add_metrics(runs / "evidence-only", Metrics(per_image={"evidence": nll}))
    capsys.readouterr()
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
