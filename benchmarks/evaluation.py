"""Times the estimators beside the decoder alone, and beside torchmetrics and torch-fidelity on the same features.

    python benchmarks/evaluation.py [--peers] [--data-root DATA] [--only PART ...]

Prints Markdown tables and writes evaluation.json; rows of an earlier run that --only leaves out stay. With --peers it
needs torch-fidelity and torchmetrics; the study needs MNIST in DATA.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pyro_vae import Images, Spec, build, evaluate, load_data
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.evaluation import (
    Classifier,
    Moments,
    evidence,
    frechet_distance,
    in_domain_classifier,
    inception_score,
    kernel_distance_from_features,
    precision_recall_from_features,
)
from pyro_vae.evaluation.samples import features
from pyro_vae.experiments.runner import run_study
from pyro_vae.experiments.study import Entry, Study


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median wall-clock seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def evidence_row(n: int, k: int) -> dict:
    """K importance samples of n 28x28 images by the MLP 784-400-20, beside its decoder alone, and its products."""
    model = build(Spec(dataset="mnist", latent_dim=20)).eval()
    pixels = torch.randint(0, 2, (n, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8) * 255
    images = Images(pixels, name="random")
    weights = [layer.weight.detach() for layer in model.decoder if isinstance(layer, torch.nn.Linear)]
    z, hidden = torch.randn(4000, 20), torch.randn(4000, 400)

    def products() -> None:
        for _ in range(n * k // 4000):
            torch.mm(z, weights[0].T)
            torch.mm(hidden, weights[1].T)

    @torch.inference_mode()
    def decode() -> None:
        for _ in range(n * k // 4000):
            model.decoder(z)

    evidence(model, images.take(slice(0, 50)), k=100, device="cpu")  # imports ArviZ
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = seconds(lambda: evidence(model, images, k=k, device="cpu"), repeats=1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare = seconds(products, repeats=1)
    decoder = seconds(decode, repeats=1)
    return {
        "images": n,
        "k": k,
        "evidence_seconds": ours,
        "decoder_products_seconds": bare,
        "decoder_seconds": decoder,
        "ratio": ours / decoder,
        "ratio_to_products": ours / bare,
        "peak_memory_mib": after / 1024,
        "peak_memory_added_mib": (after - before) / 1024,
    }


def scores_rows(peers: bool) -> list[dict]:
    """Scores of 10,000 against 10,000 features of 2048 dimensions, and of 1008 logits."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2048, 2048, generator=generator) / 2048**0.5
    x, y = (torch.randn(10_000, 2048, generator=generator) @ mixing for _ in range(2))
    y = y * 1.05 + 0.02
    logits = torch.randn(10_000, 1008, generator=generator)
    rows = []

    def row(what: str, who: str, call: Callable[[], float], repeats: int = 3) -> None:
        value = call()
        rows.append({"score": what, "by": who, "value": value, "seconds": seconds(call, repeats)})
        print(rows[-1], flush=True)

    row("frechet", "pyro_vae", lambda: frechet_distance(Moments.of(x.split(500)), Moments.of(y.split(500))))
    row("kernel", "pyro_vae", lambda: kernel_distance_from_features(x, y).mean, 1)
    row("inception score", "pyro_vae", lambda: inception_score(logits).mean)
    if peers:
        _peer_rows(row, x, y, logits)
    return rows


def _peer_rows(row: Callable[..., None], x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    class AsIs(torch.nn.Module):
        num_features = 2048

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    def fidelity_frechet() -> float:
        statistics_of = [fid_features_to_statistics(part) for part in (x, y)]
        return fid_statistics_to_metric(*statistics_of, verbose=False)["frechet_inception_distance"]

    def torchmetrics_of(kind: type, **options: object) -> Callable[[], float]:
        def call() -> float:
            metric = kind(feature=AsIs(), **options)
            for part in x.split(500):
                metric.update(part, real=True)
            for part in y.split(500):
                metric.update(part, real=False)
            value = metric.compute()
            return (value[0] if isinstance(value, tuple) else value).item()

        return call

    def torchmetrics_score() -> float:
        metric = InceptionScore(feature=AsIs())
        metric.update(logits)
        return metric.compute()[0].item()

    kernel = {"kid_subsets": 100, "kid_subset_size": 1000, "kid_degree": 3, "kid_gamma": None, "kid_coef0": 1}
    row("frechet", "torch-fidelity", fidelity_frechet)
    row("frechet", "torchmetrics", torchmetrics_of(FrechetInceptionDistance), 1)
    row(
        "kernel",
        "torch-fidelity",
        lambda: kid_features_to_metric(x, y, kid_kernel="poly", verbose=False, **kernel)[
            "kernel_inception_distance_mean"
        ],
        1,
    )
    row("kernel", "torchmetrics", torchmetrics_of(KernelInceptionDistance, subsets=100, subset_size=1000), 1)
    row("inception score", "torch-fidelity", lambda: isc_features_to_metric(logits)["inception_score_mean"])
    row("inception score", "torchmetrics", torchmetrics_score)


def groups_rows() -> list[dict]:
    """Each group of metrics of 10,000 colour images, by a convolutional model, with features as wide as a classifier's.

    Untrained networks and random pixels take as long as others. The first call computes what the cache keeps then.
    """
    generator = torch.Generator().manual_seed(0)
    train, test = (
        Images(torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8, generator=generator), name="random")
        for _ in range(2)
    )
    torch.manual_seed(0)
    model = build(Spec(dataset="random", image_shape=train.shape, network="conv", likelihood="gaussian"))
    extractor = Classifier(train.shape, 10, "random").to(memory_format=torch.channels_last).eval()
    rows = []

    def row(what: str, call: Callable[[], object]) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        call()
        rows.append({"what": what, "seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu})
        print(rows[-1], flush=True)

    options = {"extractor": extractor, "train": train, "device": "cpu"}
    with own_cache():
        for when in ("first", "again"):
            row(f"samples, {when}", lambda: evaluate(model, test, metrics=["samples"], **options))
        row("bounds", lambda: evaluate(model, test, metrics=["bounds"], **options))
        row("codes", lambda: evaluate(model, test, metrics=["codes"], **options))
        x, y = (features.extract_cached(extractor, images, device="cpu").pool for images in (train, test))
    row("features", lambda: features.extract(extractor, test.pixels, device="cpu"))
    row("precision and recall", lambda: precision_recall_from_features(x, y))
    row("kernel distance", lambda: kernel_distance_from_features(x, y))
    return rows


def study_row(data_root: str) -> dict:
    """A study of four MLPs on MNIST, an epoch each; the classifier of MNIST is trained before and not counted."""
    specs = {f"d{d}": Spec(dataset="mnist", binarization="threshold", epochs=1, latent_dim=d) for d in (2, 5, 10, 20)}
    grid = Study("four", "Four MLPs", tuple(Entry(name, spec) for name, spec in specs.items()))
    with own_cache() as folder:
        started = time.perf_counter()
        in_domain_classifier(load_data("mnist", data_root), device="cpu")
        classifier, started = time.perf_counter() - started, time.perf_counter()
        study = run_study(grid, folder / "study", data_root=data_root, device="cpu", progress=False)
    return {
        "classifier_seconds": classifier,
        "study_seconds": time.perf_counter() - started,
        "training_seconds": study["seconds"]["total"],
    }


@contextmanager
def own_cache() -> Iterator[Path]:
    """An empty cache folder, as after installation."""
    before = os.environ.get("PYRO_VAE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYRO_VAE_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("PYRO_VAE_CACHE")
            if before is not None:
                os.environ["PYRO_VAE_CACHE"] = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="also time torch-fidelity and torchmetrics")
    parser.add_argument("--k", type=int, default=5000)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--data-root", help="folder of MNIST, for the study")
    parser.add_argument("--only", nargs="+", choices=["evidence", "scores", "groups", "study"])
    arguments = parser.parse_args()
    path = Path(__file__).with_suffix(".json")
    results = json.loads(path.read_text()) if arguments.only and path.is_file() else {}
    parts = {
        "evidence": lambda: evidence_row(arguments.n, arguments.k),
        "scores": lambda: scores_rows(arguments.peers),
        "groups": groups_rows,
        "study": lambda: study_row(arguments.data_root),
    }
    chosen = arguments.only or [part for part in parts if part != "study" or arguments.data_root]
    results |= {part: parts[part]() for part in chosen}
    if arguments.only:  # the other rows are from another run
        results |= {f"environment of {part}": environment("cpu") for part in chosen}
    else:
        results["environment"] = environment("cpu")
    files.write_json(path, results)
    for part in ("evidence", "study"):
        print(results.get(part, ""))
    print("| score | by | value | seconds |\n|---|---|---|---|")
    for row in results.get("scores", []):
        print(f"| {row['score']} | {row['by']} | {row['value']:.6g} | {row['seconds']:.2f} |")
    print("\n| of 10,000 colour images | seconds | CPU seconds |\n|---|---|---|")
    for row in results.get("groups", []):
        print(f"| {row['what']} | {row['seconds']:.1f} | {row['cpu']:.1f} |")


if __name__ == "__main__":
    main()
