"""What codes are like: active units, the aggregate posterior, probes, disentanglement."""
