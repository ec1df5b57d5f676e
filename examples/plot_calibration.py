"""
Is the guide calibrated?
========================

Draw a code from the prior, an image from the model, and codes from q(z|x) of that image. Were q the posterior, the true
code would rank anywhere among the draws. A U says that q is too narrow, a slope that it is off to one side.
"""

import argparse

from pyro_vae import Spec, build, fit, load_data
from pyro_vae.evaluation import simulation_based_calibration
from pyro_vae.plots import calibration_panels

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="the folder that holds it")
arguments, _ = parser.parse_known_args()
train, _ = load_data(arguments.dataset, arguments.data_root)

vae = build(Spec(dataset=arguments.dataset, latent_dim=2, hidden=(100,), activation="relu"))
fit(vae, train, epochs=30, batch_size=64, lr=2e-3, binarization="threshold", progress=False)
found = simulation_based_calibration(vae, 2000)
for one in found.coverage:
    shares = ", ".join(f"{name} {share:.2f}" for name, share in one.observed.items())
    print(
        f"central {one.level:.0%} of q hold the truth of {shares} (± {one.se:.2f} where calibrated)"
    )
for name, z in found.dispersion_z.items():
    print(f"{name}: p = {found.p_values[name]:.1g}, dispersion {z:+.1f} standard errors")
figure = calibration_panels(found, title=f"Calibration of a mean-field guide, {arguments.dataset}")
