"""Model criticism: simulation-based calibration and predictive checks."""
