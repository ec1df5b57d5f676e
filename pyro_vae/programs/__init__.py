"""What the programs of a pair say of images: densities of its parts, or traces of any model and guide."""
