"""Pieces of the vector-quantized model: quantizers, and priors over grids of codes."""
