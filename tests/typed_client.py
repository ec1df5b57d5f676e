"""What is public, used as a program outside of the package would; `mypy --strict` reads it, and nothing runs it.

A line that says `type: ignore` is wrong: mypy has to see that, and complains of one that ignores nothing.
"""

from pathlib import Path

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

import pyro_vae
from pyro_vae import (
    VAE,
    Autoencoder,
    History,
    Images,
    Metrics,
    Spec,
    Splits,
    build,
    evaluate,
    fit,
    fit_many,
    likelihoods,
    load,
    load_data,
    networks,
    posteriors,
    priors,
    save,
)
from pyro_vae.evaluation import evidence, frechet_distance, pareto_smooth
from pyro_vae.plots import learning_curves
from pyro_vae.svi import CompiledSVI


def trained(spec: Spec, splits: Splits) -> tuple[VAE | Autoencoder, History, Metrics]:
    train, test = splits
    model = build(spec)
    history = fit(model, train, epochs=2, validation=test, compile="off")
    return model, history, evaluate(model, test)


def composed(network: nn.Module) -> VAE:
    q = posteriors.Planar(latent_dim=4, layers=2)
    return VAE(
        encoder=networks.mlp_encoder((1, 8, 8), q.num_parameters),
        decoder=network,
        prior=priors.StandardNormal(4),
        likelihood=likelihoods.Bernoulli(),
        posterior=q,
    )


def steps(vae: VAE, optimizer: PyroOptim, loss: ELBO, x: Tensor) -> float:
    return CompiledSVI(vae.model, vae.guide, optimizer, loss).step(x)


spec = Spec(latent_dim=4, hidden=(32,), posterior="planar", beta=2.0)
model, history, metrics = trained(spec, load_data("digits"))
losses: list[float] = [epoch.train_loss_nats for epoch in history.epochs]
lines: list[str] = [f"{label}: {value} ({meaning})" for label, value, meaning in metrics.rows()]
own = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), "own", ("a", "b", "c", "d"))
many = fit_many(spec, own, seeds=[0, 1])
vae = composed(networks.mlp_decoder(4, (1, 8, 8)))
save(vae, Path("weights.safetensors"))
same = load(Path("weights.safetensors"))
samples: Tensor = vae.sample(8)
nats: float = evidence(vae, own, k=100).nll_nats
k: Tensor = pareto_smooth(torch.randn(100, 2)).pareto_k
learning_curves(history, "digits").savefig("curves.png")
version: str = pyro_vae.__version__

Spec(latent_dim="four")  # type: ignore[arg-type]
fit(model, "digits", epochs=2)  # type: ignore[arg-type]
wrong: int = evaluate(model, own)  # type: ignore[assignment]
frechet_distance(samples, samples)  # type: ignore[arg-type]
error: float = metrics.nll_in_bits  # type: ignore[attr-defined]
