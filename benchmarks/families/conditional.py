"""Conditional VAEs of MNIST: unseen quadrants of an image given the seen ones, and images given their label.

    python benchmarks/families/conditional.py --data-root DATA --out RUNS

Quadrants. 1, 2 or 3 quadrants of a grey image are seen, as in Pyro's example `examples/cvae` (the lower left, the left
half, all but the lower right), and the others are scored in nats per image. Pixels are grey and the likelihood is
Bernoulli, so all numbers are cross-entropies, which the example calls conditional log-likelihoods (CLL). Networks are
MLPs 500-500, and z has 200 dimensions. `baseline` is the baseline network alone, without z. On all 10,000 test images:

- negative CLL: importance-weighted, K = 100 draws of q(z|x, c) for each image; exact for the baseline. In 200
  dimensions most images' weights have a heavy tail (Pareto k): it is an upper bound, which more draws would lower.
- negative ELBO: one draw of q(z|x, c) for each image. The example's "CVAE (Monte Carlo)" is one, of 10 draws, and so
  stands in this row alone.

What differs from the example: it stops early by the loss of the test images, and here 6,000 images held out of the
training set decide; it trains the baseline network first and then keeps it fixed, and here all networks of a model are
trained together, beta rising from 0 in the first 5 epochs; its decoder takes z alone, and here what the decoder gives
is added to what the baseline network gives; weights are an exponential average here.

Labels. VAEs of dynamically binarized images given their label, z of 8 dimensions, trained with beta = 1 and 3. 10,000
images are drawn, 1,000 of each label, as means of p(x|z, y): the accuracy is the share that the classifier of MNIST
(`pyro_vae.evaluation.in_domain_classifier`) assigns to the label that was asked for; that of the test images is for
reference. The negative ELBO is at beta = 1, of the test images binarized once, with one draw of z for each.

A training ends when the validation loss has not fallen for 3 epochs, or with the epochs of its spec. Each is kept in
RUNS and not repeated; an interrupted one resumes from its last epoch. Writes conditional.json, and in RUNS the pictures
completions-1.png (-2, -3), samples.png and styles.png.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch

from pyro_vae import Images, Spec, build, evaluate, fit, latent, load, load_data, plots, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.evaluation import in_domain_classifier
from pyro_vae.evaluation.samples.classifier import Classifier

K = 100  # draws for each image
PUBLISHED_CLL = {
    "baseline-1": 100.4,
    "baseline-2": 61.9,
    "baseline-3": 25.4,
    "quadrants-1": 71.8,
    "quadrants-2": 51.0,
    "quadrants-3": 24.2,
}
SOURCES = {
    True: "https://pyro.ai/examples/cvae.html, NN (baseline)",
    False: "https://pyro.ai/examples/cvae.html, CVAE (Monte Carlo), which is a negative ELBO with 10 draws",
}
PATIENCE = 3  # epochs after the warm-up without a lower validation loss, after which a training is stopped
COMMON = {
    "dataset": "mnist",
    "network": {"kind": "mlp", "activation": "relu", "initialization": "he"},
    "hidden": (500, 500),
    "ema": 0.999,
}


def quadrants(number: int, deterministic: bool = False) -> Spec:
    condition = {"kind": "conditional", "condition": f"quadrants-{number}"}
    model = condition | ({"deterministic": True} if deterministic else {})
    schedule = {"epochs": 10} if deterministic else {"epochs": 14, "beta_warmup": 5}
    return Spec(model=model, latent_dim=200, **schedule, **COMMON)


def labels(beta: float, epochs: int) -> Spec:
    model = {"model": "conditional", "latent_dim": 8, "binarization": "dynamic"}
    return Spec(**model, beta=beta, epochs=epochs, **COMMON)


TRAININGS = {
    "quadrants-1": quadrants(1),
    "quadrants-2": quadrants(2),
    "quadrants-3": quadrants(3),
    "label": labels(beta=1.0, epochs=8),
    "label-beta-3": labels(beta=3.0, epochs=12),
    "baseline-1": quadrants(1, deterministic=True),
    "baseline-2": quadrants(2, deterministic=True),
    "baseline-3": quadrants(3, deterministic=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trainings")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, help="trainings to do, without any measurement")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "grey pixels under a Bernoulli")  # as the docstring says
    torch.set_num_threads(1)
    splits = load_data("mnist", arguments.data_root)
    for name in arguments.only or TRAININGS:
        print(f"{name}: {train_or_read(name, splits.train, arguments.out / name)}", flush=True)
    if arguments.only:
        return
    classifier = in_domain_classifier(splits, progress=False)
    rows = [row for name in TRAININGS for row in measure_or_read(name, splits.test, classifier, arguments.out / name)]
    rows.append(accuracy_row("MNIST test images", recognised(classifier, splits.test.as_float(), splits.test.labels)))
    draw_pictures(splits.test, arguments.out)
    result = {
        "command": "python benchmarks/families/conditional.py --data-root DATA --out RUNS",
        "environment": environment("cpu"),
        "budget": "one CPU core for each training, which other work shared; at most 14 epochs of 54,000 images",
        "rows": rows,
    }
    files.write_json(Path(__file__).with_suffix(".json"), result)


def train_or_read(name: str, images: Images, folder: Path) -> dict:
    """A training with early stopping; the weights of its best epoch are in `folder`."""
    done = folder / "training.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    spec = TRAININGS[name]
    train, held_out = images.split(0.1)
    folder.mkdir(parents=True, exist_ok=True)

    def keep_best(epoch: int, model: torch.nn.Module, history) -> bool:
        losses = history.column("validation_loss_nats")
        best = best_epoch(losses, spec.beta_warmup)
        if best == epoch:
            save(model, folder / "best.safetensors")
        print(f"{name}, epoch {epoch}: validation loss {losses[-1]:.2f} nats", file=sys.stderr, flush=True)
        return epoch - best >= PATIENCE

    history = fit(
        build(spec),
        train,
        validation=held_out,
        compile="capture",
        checkpoint=folder / "checkpoint",
        resume=(folder / "checkpoint").is_dir(),
        callback=keep_best,
        device="cpu",
        progress=False,
    )
    losses = history.column("validation_loss_nats")
    trained = {
        "epochs": len(losses),
        "best_epoch": best_epoch(losses, spec.beta_warmup),
        "training_seconds": sum(history.column("seconds")),
    }
    files.write_json(done, trained)
    return trained


def best_epoch(losses: list[float], warmup: int) -> int:
    """The epoch of the least validation loss, of those after the warm-up; before, the one so far."""
    after = range(min(warmup, len(losses) - 1), len(losses))
    return 1 + min(after, key=losses.__getitem__)


def measure_or_read(name: str, test: Images, classifier: Classifier, folder: Path) -> list[dict]:
    """The rows of one training; from its file, if they were measured before."""
    path = folder / "rows.json"
    if not path.is_file():
        trained = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        about = {"epochs": trained["epochs"], "training_seconds": trained["training_seconds"]}
        files.write_json(path, {"rows": [row | about for row in measure(name, test, classifier, folder)]})
    rows: list[dict] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def measure(name: str, test: Images, classifier: Classifier, folder: Path) -> list[dict]:
    model, spec = load(folder / "best.safetensors"), TRAININGS[name]
    if name.startswith("label"):
        of = f"conditional on the label, beta = {spec.beta:g}"
        asked = torch.arange(10).repeat(1000)
        drawn = latent.prior_samples(model, len(asked), labels=asked)
        rows = [accuracy_row(f"samples, {of}", recognised(classifier, drawn, asked))]
        rows.append(row(of, "negative ELBO, nats", **negative_elbo(model, test)))
    else:
        is_baseline = name.startswith("baseline")
        of = f"{'baseline' if is_baseline else 'conditional'}, {name[-1]} of 4 quadrants seen"
        published = {"published": PUBLISHED_CLL[name], "published_source": SOURCES[is_baseline]}
        rows = [row(of, "negative ELBO, nats", **negative_elbo(model, test), **published)]
        if is_baseline:  # the bound is exact without z
            rows[0]["metric"] = "negative CLL, nats"
        else:
            metrics = evaluate(model, test, metrics=["evidence"], k=K)
            nll = {"value": metrics.nll_nats, "error": metrics.nll_se, "k": K}
            rows.append(row(of, "negative CLL, nats", **nll))
    for each in rows:
        print(f"{each['name']}: {each['metric']} {each['value']:.4f} ± {each['error']:.4f}", flush=True)
    return rows


def negative_elbo(model: torch.nn.Module, test: Images) -> dict:
    metrics = evaluate(model, test, metrics=["bounds"])
    return {"value": -metrics.elbo_nats, "error": metrics.elbo_se, "k": None}


def row(name: str, metric: str, **values) -> dict:
    empty = {"published": None, "published_source": None, "epochs": None, "training_seconds": None}
    return {"name": name, "metric": metric, "error_is": "se over images", "n_images": 10_000} | empty | values


def accuracy_row(name: str, is_recognised: torch.Tensor) -> dict:
    share, n = is_recognised.double().mean().item(), len(is_recognised)
    return row(name, "accuracy of the classifier", value=share, error=(share * (1 - share) / n) ** 0.5, k=None)


@torch.inference_mode()
def recognised(classifier: Classifier, images: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Whether the classifier assigns each image to the label that was asked for."""
    classifier.eval()
    return torch.cat([classifier(batch).logits.argmax(1) for batch in images.split(500)]) == asked


def draw_pictures(test: Images, out: Path) -> None:
    """Completions of 1, 2 and 3 quadrants, samples of each label, and the styles of test images with each label."""
    x = test.as_float()[:8]
    for number in (1, 2, 3):
        baseline, cvae = (load(out / f"{of}-{number}" / "best.safetensors") for of in ("baseline", "quadrants"))
        seen = torch.where(cvae.given.seen, x, 0.5)
        torch.manual_seed(0)
        columns = [x, seen, baseline.complete(x)[0], *cvae.complete(x, draws=6)]
        title = "Original, seen, baseline, six draws"
        grid = plots.image_grid(torch.stack(columns, 1).flatten(0, 1), title, columns=len(columns))
        plots.save_figure(grid, out / f"completions-{number}.png")
    by_label = load(out / "label-beta-3" / "best.safetensors")
    drawn = latent.prior_samples(by_label, 100, labels=torch.arange(10).repeat(10))
    plots.save_figure(plots.image_grid(drawn, "Samples of each label", columns=10), out / "samples.png")
    styles = latent.style_grid(by_label, test.take(slice(0, 10)), range(10))
    rows = torch.cat([test.as_float()[:10, None], styles], 1).flatten(0, 1)
    title = "An image, and its style with the labels 0 to 9"
    plots.save_figure(plots.image_grid(rows, title, columns=11), out / "styles.png")


if __name__ == "__main__":
    main()
