"""The vector-quantized VAE beside a VAE of the same networks, on Fashion-MNIST and on CIFAR-10 as JPEG.

    python benchmarks/families/vector_quantized.py --data-root DATA --cifar FOLDER --out RUNS

Without `--out` it prints what vector_quantized.json holds, and trains nothing. Trainings and evaluations that are done
are not repeated, and a training that was stopped resumes. `--train-only` stops before the evaluation; without `--cifar`
there is no row of that set.

Protocol. Both models have the convolutions and residual blocks of `networks.grid_encoder` and `grid_decoder`, the
discretized logistic likelihood with one scale, and the same epochs of Adam with a cosine schedule. The vector-quantized
model has 512 codes of 64 dimensions, by moving averages; the VAE has 8 normal latent variables at each position of the
same grid, and a standard normal prior. The prior over codes is then fitted to the codes of the training images, in
further epochs that the VAE does not have.

- codes used and their perplexity: over all positions of all training images.
- bits per dimension: the bound -ELBO / (C H W log 2) over all test images, which for the vector-quantized model is
  exact for its single grid of codes. For the VAE also the importance-sampled estimate with K = 100 on 1,000 of them,
  which is an upper bound, too.
- Frechet distance: of 5,000 samples to the test images, in the features of the data set's own classifier; the same of
  5,000 training images that the classifier was not trained on, or as many as there are. Fashion-MNIST alone.
- quantizers: the same model with other quantizers, 5 epochs of 12,800 training images of Fashion-MNIST: use of codes by
  those images, and the bound under uniform codes on the test images. `no restarts` changes two things: dead codes stay,
  and the codebook starts from normal draws, and not from the first batch.

CIFAR-10 as JPEG is a re-compressed copy: its numbers are not comparable with published ones of the original.
"""

import argparse
import copy
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pyro_vae import VAE, Spec, build, evaluate, fit, likelihoods, load, load_data, posteriors, priors, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.evaluation import codebook_use
from pyro_vae.evaluation.samples import extractors
from pyro_vae.models.base import evaluating
from pyro_vae.networks import grid_decoder, grid_encoder, grid_shape
from pyro_vae.training.code_prior import fit_code_prior
from pyro_vae.training.history import History

PATH = Path(__file__).with_suffix(".json")
CHANNELS, BLOCKS, CODES, CODE_DIM, VAE_DIM = (16, 32), 2, 512, 64, 8
EPOCHS = {
    "Fashion-MNIST": {"vq": 8, "vae": 8, "prior": 3},
    "CIFAR-10 as JPEG": {"vq": 3, "vae": 3, "prior": 1},
}
STEP = {"batch_size": 128, "lr": 1e-3, "schedule": "cosine", "compile": "capture", "device": "cpu"}
K, EVIDENCE_IMAGES, SAMPLES = 100, 1000, 5000
BUDGET = "40 minutes of one core, by which the epochs were chosen; its seconds are of a core that others used as well"
PUBLISHED = {"CIFAR-10 as JPEG, vector-quantized, learned prior": 4.67, "CIFAR-10 as JPEG, VAE": 4.51}
SOURCE = "van den Oord et al., 2017, section 4.1: the original CIFAR-10, larger networks; not comparable"


QUANTIZERS = {
    "moving averages": {},
    "no restarts": {"restart_below": 0},
    "codebook by gradient": {"codebook": "gradient"},
    "rotation trick": {"gradient": "rotation"},
    "finite scalar": {"quantizer": "finite-scalar", "levels": (8, 8, 8)},
}
FEW_IMAGES, FEW_EPOCHS = 12_800, 5


def vector_quantized(dataset, shape, **others):
    codes = {"codes": CODES} if others.get("quantizer") != "finite-scalar" else {}
    options = {**codes, "channels": CHANNELS, "blocks": BLOCKS, **others}
    spec = Spec(
        dataset=dataset,
        image_shape=shape,
        model={"kind": "vector-quantized", **options},
        likelihood="discretized-logistic",
        latent_dim=CODE_DIM,
    )
    return build(spec)


def continuous(shape):
    """The VAE of the same networks: `VAE_DIM` normal latent variables at each position of the same grid."""
    grid = grid_shape(shape, CHANNELS)
    latent_dim = VAE_DIM * grid[0] * grid[1]
    torch.manual_seed(0)
    return VAE(
        nn.Sequential(grid_encoder(shape, 2 * VAE_DIM, CHANNELS, BLOCKS), nn.Flatten()),
        nn.Sequential(nn.Unflatten(-1, (VAE_DIM, *grid)), grid_decoder(VAE_DIM, shape, CHANNELS, BLOCKS)),
        priors.StandardNormal(latent_dim),
        likelihoods.DiscretizedLogistic(),
        posteriors.DiagonalNormal(latent_dim),
    )


class Trained(NamedTuple):
    model: nn.Module
    epochs: int
    seconds: float


def trained(name, model, train, out, stage, epochs):
    """The model of this name from `out`, trained by `stage` if it is not there."""
    weights, log = out / f"{name}.safetensors", out / f"{name}.csv"
    if not weights.is_file():
        checkpoint = out / f"{name}-checkpoint"
        history = stage(model, train, epochs=epochs, checkpoint=checkpoint, resume=checkpoint.is_dir(), **STEP)
        history.to_csv(log)
        save(model, weights)
    seconds = sum(History.from_csv(log).column("seconds"))
    return Trained(load(weights, None if model.spec is not None else model), epochs, seconds)


def all_trained(name, dataset, train, out):
    """The trained models of a data set."""
    slug, epochs = name.split()[0].lower(), EPOCHS[name]
    start = vector_quantized(dataset, train.shape)
    uniform = trained(f"{slug}-vq", start, train, out, fit, epochs["vq"])
    vae = trained(f"{slug}-vae", continuous(train.shape), train, out, fit, epochs["vae"])
    learned = trained(f"{slug}-prior", copy.deepcopy(uniform.model), train, out, fit_code_prior, epochs["prior"])
    both = Trained(learned.model, uniform.epochs + learned.epochs, uniform.seconds + learned.seconds)
    return {"vector-quantized, learned prior": both, "vector-quantized, uniform codes": uniform, "VAE": vae}


def kept(out, name, function, *arguments):
    """The rows that `function` makes, from `out` if they are there."""
    path = out / f"{name.replace(', ', '-').replace(' ', '-').lower()}.json"
    if not path.is_file():
        files.write_json(path, list(function(*arguments)))
    return json.loads(path.read_text(encoding="utf-8"))


def quantizer_rows(name, splits, out):
    """The rows of the quantizers, each trained on a part of the images."""
    few, (_, test) = splits.train.draw(FEW_IMAGES), splits
    for label, options in QUANTIZERS.items():
        start = vector_quantized("fashion-mnist", few.shape, **options)
        of = trained(f"few-{label.replace(' ', '-')}", start, few, out, fit, FEW_EPOCHS)
        full = f"{name}, {FEW_IMAGES:,} images, {label}"
        yield from use_of_codes(full, of, few)
        measured = evaluate(of.model, test, metrics=["bounds"], device="cpu")
        bits = 1 / (math.prod(few.shape) * math.log(2))
        bound, error = -measured.elbo_nats * bits, measured.elbo_se * bits
        yield row(full, "bits per dimension, bound", bound, len(test), of, error=error, k=1)


def use_of_codes(full, of, images):
    with evaluating(of.model):
        codes = [of.model.codes(pixels.float() / 255) for pixels in images.pixels.split(500)]
    use = codebook_use(torch.cat(codes), of.model.num_codes)
    yield row(full, "share of codes used", use.used, len(images), of)
    yield row(full, "code perplexity", use.perplexity, len(images), of)


def row(name, metric, value, n, of=None, *, error=None, k=None, published=None):
    """A row of the table; `of` is what was trained for it."""
    print(f"{name}: {metric} {value:.4g}", flush=True)
    return {
        "name": name,
        "metric": metric,
        "value": value,
        "error": error,
        "error_is": None if error is None else "se over images",
        "n_images": n,
        "k": k,
        "epochs": None if of is None else of.epochs,
        "training_seconds": None if of is None else round(of.seconds),
        "published": published,
        "published_source": None if published is None else SOURCE,
    }


def rows_of(name, splits, of, label, classifier):
    """The rows of one trained model."""
    train, test = splits
    full, is_vae, bits = f"{name}, {label}", label == "VAE", 1 / (math.prod(train.shape) * math.log(2))
    measured = evaluate(of.model, test, metrics=["bounds"], device="cpu")
    bound, error = -measured.elbo_nats * bits, measured.elbo_se * bits
    published = PUBLISHED.get(full)
    yield row(full, "bits per dimension, bound", bound, len(test), of, error=error, k=1, published=published)
    part = "KL" if is_vae else "codes"
    yield row(full, f"bits per dimension, of which {part}", measured.kl_per_sample * bits, len(test), of)
    if is_vae:
        some = evaluate(of.model, test, metrics=["evidence"], k=K, evidence_images=EVIDENCE_IMAGES, device="cpu")
        value, error = some.bits_per_dimension, some.bits_per_dimension_se
        yield row(full, "bits per dimension, importance-sampled", value, EVIDENCE_IMAGES, of, error=error, k=K)
    if not label.endswith("learned prior"):
        yield row(full, "MSE per pixel", measured.mse_per_pixel, len(test), of)
    if label.endswith("uniform codes"):
        yield from use_of_codes(full, of, train)
    if classifier is not None:
        settings = {"extractor": classifier, "num_generated": SAMPLES, "train": train, "device": "cpu"}
        scores = evaluate(of.model, test, metrics=["samples"], **settings)
        yield row(full, "Frechet distance", scores.frechet, SAMPLES, of, error=scores.frechet_se)
        if is_vae:
            count, real = scores.provenance["frechet"]["num_real"], scores.real_scores["frechet"]
            yield row(f"{name}, real training images", "Frechet distance", real, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of torchvision's data folders")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10 as JPEG; without it, Fashion-MNIST alone")
    parser.add_argument("--out", type=Path, help="folder for the trainings")
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.out is None:
        show(json.loads(PATH.read_text(encoding="utf-8")))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    sets = {"Fashion-MNIST": "fashion-mnist"}
    if arguments.cifar is not None:
        sets["CIFAR-10 as JPEG"] = str(arguments.cifar)
    rows = []
    for name, dataset in sets.items():
        splits = load_data(dataset, arguments.data_root)
        every = all_trained(name, dataset, splits.train, arguments.out)
        if arguments.train_only:
            continue
        is_first = name == "Fashion-MNIST"
        classifier = extractors.by_name("classifier", splits) if is_first else None
        for label, of in every.items():
            rows += kept(arguments.out, f"{name}, {label}", rows_of, name, splits, of, label, classifier)
        if is_first:
            rows += kept(arguments.out, f"{name}, quantizers", quantizer_rows, name, splits, arguments.out)
    if not arguments.train_only:
        command = "python benchmarks/families/vector_quantized.py --data-root DATA --cifar FOLDER --out RUNS"
        table = {"command": command, "environment": environment("cpu"), "budget": BUDGET, "rows": rows}
        files.write_json(PATH, table)
        show(table)


def show(table):
    sys.stdout.write("| model | metric | value | published |\n|---|---|---|---|\n")
    for row in table["rows"]:
        error = "" if row["error"] is None else f" ± {row['error']:.3g}"
        published = "" if row["published"] is None else f"{row['published']}"
        sys.stdout.write(f"| {row['name']} | {row['metric']} | {row['value']:.4g}{error} | {published} |\n")


if __name__ == "__main__":
    main()
