"""
Confidence of a classifier in samples
=====================================

Document 001 measures how confident a digit classifier is on samples and on reconstructions, relative to real images,
and finds that a large beta gives samples that are easier to classify than real digits. Confidence does not mean
quality: the Fréchet distance and coverage are printed beside it.
"""

import argparse

import matplotlib.pyplot as plt

from pyro_vae import Spec, build, evaluate, fit, load_data, plots
from pyro_vae.evaluation import confidence, extract, in_domain_classifier

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
classifier = in_domain_classifier(load_data(arguments.dataset, arguments.data_root), progress=False)
real = extract(classifier, test.as_float()).logits

# %%
betas = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
of_samples, of_reconstructions, frechet, coverage = [], [], [], []
for beta in betas:
    spec = Spec(
        dataset=arguments.dataset,
        latent_dim=4,
        likelihood={"kind": "gaussian", "variance": 0.05},
        network={"kind": "mlp", "activation": "relu"},
    )
    vae = build(spec)
    fit(vae, train, epochs=25, batch_size=64, lr=2e-3, beta=beta)
    metrics = evaluate(vae, test, metrics=["samples"], extractor=classifier, train=train)
    of_samples.append(metrics.confidence)
    reconstructed = extract(
        classifier, vae.reconstruct(test.as_float().to(next(vae.parameters()))).detach().cpu()
    )
    of_reconstructions.append(confidence(reconstructed.logits, real))
    frechet.append(metrics.frechet)
    coverage.append(metrics.coverage)
    print(
        f"beta {beta:4.2f}: confidence {of_samples[-1]:.3f} (reconstructions {of_reconstructions[-1]:.3f}), "
        f"Frechet {frechet[-1]:6.1f}, coverage {coverage[-1]:.2f}"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
left.plot(betas, of_samples, "o-", color=plots.COLOURS[0], label="samples")
left.plot(betas, of_reconstructions, "s--", color=plots.COLOURS[1], label="reconstructions")
left.axhline(1, color="black", linewidth=0.8)
left.set_ylabel("confidence relative to real images")
left.legend()
right.plot(betas, frechet, "o-", color=plots.COLOURS[0])
right.set_ylabel("Fréchet distance, the classifier's features")
for axes in (left, right):
    axes.set_xlabel(r"$\beta$")
    axes.grid(alpha=0.3)
