"""Properties of codes: active units, the aggregate posterior, probes, disentanglement."""
