"""`CompiledSVI`: Pyro's SVI for any static program, with the step captured and replayed.

In the order in which a step meets them: `compiled_svi` (the class), `program` (model and guide with their objective),
`watching` and `reach` (what a captured program depends on), `capture` (the tensor operations as a graph), `backends`
(how a graph is run), `optimizers` (one update of all parameters), `replay` (a captured step). `cpu` has native kernels
for what Inductor compiles there.
"""

from pyro_vae.svi.compiled_svi import CompiledSVI, NotFiniteError

__all__ = ["CompiledSVI", "NotFiniteError"]
