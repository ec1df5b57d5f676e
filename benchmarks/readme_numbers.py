"""The numbers of the README: trains and evaluates each row, and writes a table and readme_numbers.json.

    python benchmarks/readme_numbers.py --data-root DATA --out RUNS

Without `--out` it prints what readme_numbers.json holds, and trains nothing.
Rows that are done are not trained again; one that was stopped goes on. The first six took 81 minutes of training on two
cores that were doing other work as well.
"""

import argparse
import json
import warnings
from pathlib import Path

from pyro_vae import Spec, evaluate
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.evaluation import Metrics
from pyro_vae.evaluation.samples import extractors
from pyro_vae.experiments import tables
from pyro_vae.experiments.run import run

PATH = Path(__file__).with_suffix(".json")
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
    "fashion-flow4": Spec(posterior={"kind": "planar", "layers": 4}, **FASHION),
    "fashion-flow8": Spec(posterior={"kind": "planar", "layers": 8}, **FASHION),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    arguments = parser.parse_args()
    if arguments.out is None:
        show(json.loads(PATH.read_text(encoding="utf-8")))
        return
    warnings.filterwarnings("ignore", "grey pixels under a Bernoulli")  # its document has them, and the README says so
    results, of_images = {}, {}
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
        of_images[name] = metrics
        row = metrics.to_dict()
        row["provenance"] = {source["group"]: source for source in row["provenance"].values()}
        pixels, beta_kl = images.test.pixels[0].numel(), spec.beta * metrics.kl_per_sample
        results[name] = {
            "spec": spec.to_dict(),
            "metrics": row,
            "loss": metrics.reconstruction_nats + beta_kl,
            "squared_error_loss": pixels * metrics.mse_per_pixel + beta_kl,
            "squared_error_loss_sampled": pixels * metrics.mse_per_pixel_sampled + beta_kl,
            "training_seconds": sum(history.column("seconds")),
            "classifier_accuracy": classifier.accuracy,
        }
        print(f"{name}: {results[name]['loss']:.2f}", flush=True)
    stored = {"environment": environment(), "results": results, "differences": differences(results, of_images)}
    files.write_json(PATH, stored)
    show(stored)


def show(stored: dict) -> None:
    print(table(stored["results"]))
    for pair in stored.get("differences") or differences(stored["results"], {}):
        print(
            f"{pair['second']} less {pair['first']}, {pair['metric']}: {pair['difference']:+.2f} ± {pair['se']:.2f} "
            f"({pair['error_of']})"
        )


def differences(results: dict, of_images: dict[str, Metrics]) -> list[dict]:
    """Differences of the flows from the model without a flow; paired, if per-image values are given."""
    scores = tables.Scores(
        {name: [row["metrics"]] for name, row in results.items()},
        {name: [metrics] for name, metrics in of_images.items()},
    )
    pairs = [(metric, name) for metric in ("elbo_nats", "nll_nats") for name in ("fashion-flow4", "fashion-flow8")]
    return [scores.difference(("fashion-beta1", metric), (name, metric)).to_dict() for metric, name in pairs]


# The metrics printed beside the NLL, with their labels and digits.
_BESIDE_THE_NLL = {
    "elbo_of_evidence_images_nats": ("ELBO of these images", 2),
    "nll_mcse": ("Monte Carlo SE", 3),
    "nll_effective_samples": ("effective samples, median", 1),
}


def table(results: dict) -> str:
    """Markdown: two tables, a row per run."""
    losses = [
        "| run | reconstruction | KL | reconstruction + β KL | 784 MSE + β KL, mean (sampled) | ELBO |",
        "|---|---|---|---|---|---|",
    ]
    scores = [
        "| run | active units | Frechet distance (real) "
        "| classifier score (sd over splits; real) | precision, recall |",
        "|---|---|---|---|---|",
    ]
    errors = [name for name in _BESIDE_THE_NLL if all(name in row["metrics"] for row in results.values())]
    evidence = [
        f"| run | NLL | {''.join(f'{_BESIDE_THE_NLL[name][0]} | ' for name in errors)}bits per dimension "
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
            f"| {''.join(f'{m[column]:.{_BESIDE_THE_NLL[column][1]}f} | ' for column in errors)}"
            f"{_number(m.get('bits_per_dimension'))} | {bands} |"
        )
    return "\n".join([*losses, "", *scores, "", *evidence])


def _number(value: float | None) -> str:
    """Bits per dimension, or nothing: only probabilities have them."""
    return "" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
