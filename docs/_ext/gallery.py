"""What sphinx-gallery needs to know of our examples: their figures, their order, and a clean start for each."""

from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

FIRST = [
    "plot_first_vae",
    "plot_plain_pyro",
    "plot_compiled_svi",
    "plot_own_prior",
    "plot_planar_flow",
    "plot_arviz",
]


class Order:
    """The general examples first, those of the documents after them, by name."""

    def __init__(self, source_dir):
        self.source_dir = source_dir

    def __call__(self, filename):
        stem = Path(filename).stem
        return (FIRST.index(stem), "") if stem in FIRST else (len(FIRST), stem)


def reset(gallery_conf, name):
    """Before each example."""
    pyro.clear_param_store()
    torch.manual_seed(0)


def figures(block, block_vars, gallery_conf):
    """Saves the figures that a block has made: ours are plain `Figure`s, which pyplot does not know."""
    names = block_vars["example_globals"]
    shown = names.setdefault("__shown__", [])
    paths = []
    for value in list(names.values()):
        if isinstance(value, Figure) and not any(value is one for one in shown):
            shown.append(value)
            path = next(block_vars["image_path_iterator"])
            value.savefig(path, dpi=110, bbox_inches="tight")
            paths.append(path)
    return "".join(
        figure_rst([path], gallery_conf["src_dir"]) for path in paths
    )  # each in full width
