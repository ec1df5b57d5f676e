"""Pictures of trained models side by side: runs by name and test images -> matplotlib `Figure`.

Each function takes an ordered mapping from a name to a :class:`Fitted` run, and images. Random draws come from `seed`;
models with the same number of latent dimensions get the same noise.

>>> from pyro_vae import Spec, build, load_data
>>> runs = {"untrained": Fitted(build(Spec(latent_dim=2)))}
>>> figure = reconstructions(runs, load_data("digits").test, per_class=1)
>>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
['original', 'untrained']
"""

from pyro_vae.experiments.figures.image_rows import (
    decoded_many_times,
    interpolations,
    likelihood_variances,
    random_codes,
    reconstructions,
    samples,
    samples_around,
)
from pyro_vae.experiments.figures.latent_space import (
    latent_spaces,
    linear_autoencoders,
    manifolds,
    pca_example,
    posterior_density,
)
from pyro_vae.experiments.figures.over_epochs import (
    Confidence,
    confidence_by_epoch,
    confidences,
    latent_spaces_by_epoch,
    reconstructions_by_epoch,
    samples_by_epoch,
    training_curves,
)
from pyro_vae.experiments.figures.trained_runs import Fitted, Runs, open_run

__all__ = [
    "Confidence",
    "Fitted",
    "Runs",
    "confidence_by_epoch",
    "confidences",
    "decoded_many_times",
    "interpolations",
    "latent_spaces",
    "latent_spaces_by_epoch",
    "likelihood_variances",
    "linear_autoencoders",
    "manifolds",
    "open_run",
    "pca_example",
    "posterior_density",
    "random_codes",
    "reconstructions",
    "reconstructions_by_epoch",
    "samples",
    "samples_around",
    "samples_by_epoch",
    "training_curves",
]
