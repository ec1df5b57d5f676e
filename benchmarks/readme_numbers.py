"""The numbers of the README: trains each row, judges it on the test images, and writes a table and readme_numbers.json.

    python benchmarks/readme_numbers.py --data-root DATA --out RUNS

Rows that are done are not trained again; one that was stopped goes on. The first six took 81 minutes of training on two
cores that were doing other work as well.
"""

import argparse
import json
import warnings
from pathlib import Path

from pyro_vae import Spec, evaluate, files
from pyro_vae.evaluation import extractors
from pyro_vae.run_folder import environment, run

GROUPS = ("bounds", "codes", "samples", "evidence")
K, EVIDENCE_IMAGES = 1000, 1000
CONV = {"network": "conv", "epochs": 25, "validation_fraction": 0.0, "objective": "elbo"}
FASHION = {"dataset": "fashion-mnist", "likelihood": "gaussian", "latent_dim": 32, "hidden": (256,), **CONV}
SPECS = {
    "mnist-d2": Spec(dataset="mnist", latent_dim=2, hidden=(256, 256), **CONV),
    "mnist-d16": Spec(dataset="mnist", latent_dim=16, hidden=(256,), **CONV),
    "mnist-binary": Spec(dataset="mnist", latent_dim=16, hidden=(256,), binarization="dynamic", **CONV),
    "fashion-beta1": Spec(**FASHION),
    "fashion-beta0.25": Spec(beta=0.25, **FASHION),
    "fashion-flow4": Spec(posterior="planar", flow_layers=4, **FASHION),
    "fashion-flow8": Spec(posterior="planar", flow_layers=8, **FASHION),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "grey pixels under a Bernoulli")  # its document has them, and the README says so
    results = {}
    for name, spec in SPECS.items():
        model, history, images = run(spec, arguments.out / name, data_root=arguments.data_root, resume=True)
        classifier = extractors.by_name("classifier", images)
        metrics = evaluate(
            model,
            images.test,
            metrics=GROUPS,
            binarization=spec.binarization,
            dequantize=spec.dequantize,
            k=K,
            evidence_images=EVIDENCE_IMAGES,
            partial=arguments.out / name / "evidence.partial.safetensors",
            extractor=classifier,
            train=images.train,
            progress=True,
        )
        found = metrics.to_dict()
        found["provenance"] = {source["group"]: source for source in found["provenance"].values()}
        pixels, beta_kl = images.test.pixels[0].numel(), spec.beta * metrics.kl_per_sample
        results[name] = {
            "spec": spec.to_dict(),
            "metrics": found,
            "loss": metrics.reconstruction_nats + beta_kl,
            "squared_error_loss": pixels * metrics.mse_per_pixel + beta_kl,
            "squared_error_loss_sampled": pixels * metrics.mse_per_pixel_sampled + beta_kl,
            "training_seconds": sum(history.column("seconds")),
            "classifier_accuracy": classifier.accuracy,
        }
        print(f"{name}: {results[name]['loss']:.2f}", flush=True)
    path = files.write_json(Path(__file__).with_suffix(".json"), {"environment": environment(), "results": results})
    print(table(json.loads(path.read_text())["results"]))


# What says more of the NLL's error, and its digits.
_OF_THE_ERROR = {"nll_mcse": ("Monte Carlo SE", 3), "nll_effective_samples": ("effective samples, median", 1)}


def table(results: dict) -> str:
    """Markdown: two tables, one row a run."""
    losses = [
        "| run | reconstruction | KL | reconstruction + β KL | 784 MSE + β KL, mean (sampled) | ELBO |",
        "|---|---|---|---|---|---|",
    ]
    scores = [
        "| run | active units | Frechet distance (real) "
        "| classifier score (sd over splits; real) | precision, recall |",
        "|---|---|---|---|---|",
    ]
    errors = [name for name in _OF_THE_ERROR if all(name in one["metrics"] for one in results.values())]
    evidence = [
        f"| run | NLL | {''.join(f'{_OF_THE_ERROR[name][0]} | ' for name in errors)}bits per dimension "
        "| Pareto k: good, ok, bad, very bad |",
        "|---|---|---|---|" + "---|" * len(errors),
    ]
    for name, result in results.items():
        m = result["metrics"]
        losses.append(
            f"| {name} | {m['reconstruction_nats']:.2f} ± {m['reconstruction_se']:.2f} "
            f"| {m['kl_per_sample']:.2f} ± {m['kl_se']:.2f} | {result['loss']:.2f} "
            f"| {result['squared_error_loss']:.2f} ({result['squared_error_loss_sampled']:.2f}) "
            f"| {m['elbo_nats']:.2f} ± {m['elbo_se']:.2f} |"
        )
        real, score = m["real_scores"], f"{m['inception_score_mean']:.2f} (sd {m['inception_score_std']:.2f}"
        scores.append(
            f"| {name} | {m['active_units']} "
            f"| {m['frechet']:.1f} ({real['frechet']:.1f}) "
            f"| {score}; {real['inception_score_mean']:.2f}) "
            f"| {m['precision']:.2f}, {m['recall']:.2f} |"
        )
        bands = ", ".join(f"{share:.1%}" for share in m["pareto_k"].values())
        evidence.append(
            f"| {name} | {m['nll_nats']:.2f} ± {m['nll_se']:.2f} "
            f"| {''.join(f'{m[one]:.{_OF_THE_ERROR[one][1]}f} | ' for one in errors)}"
            f"{_number(m.get('bits_per_dimension'))} | {bands} |"
        )
    return "\n".join([*losses, "", *scores, "", *evidence])


def _number(value: float | None) -> str:
    """Nothing where there is none: only probabilities have bits per dimension."""
    return "" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
