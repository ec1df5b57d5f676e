"""
Is the guide calibrated?
========================

Simulation-based calibration: draw a code from the prior, an image from the model given this code, and codes from q(z|x)
of that image. If q is the posterior, the rank of the true code among these draws is uniform. A U-shaped histogram means
that q is too narrow, a slope that it is biased.
"""

import argparse

from pyro_vae import Spec, build, fit, load_data
from pyro_vae.evaluation import simulation_based_calibration
from pyro_vae.plots import calibration_panels

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, _ = load_data(arguments.dataset, arguments.data_root)

vae = build(
    Spec(
        dataset=arguments.dataset,
        latent_dim=2,
        hidden=(100,),
        network={"kind": "mlp", "activation": "relu"},
    )
)
fit(vae, train, epochs=30, batch_size=64, lr=2e-3, binarization="threshold", progress=False)
calibration = simulation_based_calibration(vae, 2000)
for interval in calibration.coverage:
    shares = ", ".join(f"{name} {share:.2f}" for name, share in interval.observed.items())
    print(
        f"central {interval.level:.0%} of q cover the true {shares} (± {interval.se:.2f} where calibrated)"
    )
for name, z in calibration.dispersion_z.items():
    print(f"{name}: p = {calibration.p_values[name]:.1g}, dispersion {z:+.1f} standard errors")
figure = calibration_panels(
    calibration, title=f"Calibration of a mean-field guide, {arguments.dataset}"
)
