"""Training: the loop, its history, checkpoints, several processes, many seeds."""
