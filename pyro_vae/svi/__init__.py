"""`CompiledSVI`: Pyro's SVI for any static program, with the step captured and replayed.

In the order of a step: `compiled_svi` (the class), `captured_steps` (which captured step a call replays, or why it
runs eagerly), `signature` and `ambient` (what a captured step depends on in arguments, and in the state of torch),
`guards` (the Python values that a captured program reads: `recorder` finds them by `bytecode`, in `places`), `program`
(model and guide with their objective), `capture` (tensor operations as a graph), `isolation` (runs that write to no
tensor of the user's), `scalar_reads` (numbers that are read from tensors), `verification` (of a captured step by its
program), `backends` (running a graph), `optimizers` (a single update of all parameters), `replay` (a captured step),
`losses` (their check). `compiled_elbo` is the loss as a function of the parameters, `compiled_predictive` Pyro's
Predictive with a captured draw. `cpu` has native kernels that make compiled steps faster.
"""

from pyro_vae.svi.compiled_elbo import compiled_elbo
from pyro_vae.svi.compiled_predictive import CompiledPredictive
from pyro_vae.svi.compiled_svi import CompiledSVI
from pyro_vae.svi.losses import NotFiniteError

__all__ = ["CompiledPredictive", "CompiledSVI", "NotFiniteError", "compiled_elbo"]
