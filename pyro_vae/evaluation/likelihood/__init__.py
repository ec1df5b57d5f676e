"""log p(x): importance sampling, annealing, and how far the bound is from it."""
