"""What sphinx-gallery needs to know of our examples: their figures, order, clean start, and when to run anew."""

import hashlib
import os
import warnings
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


def in_processes(extensions):
    """How many examples run at once: one on each core, with one thread, which is all that networks this small use."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read where a process begins
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(extensions), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return os.cpu_count()


def forget_if_changed(examples, package):
    """sphinx-gallery runs an example that has changed; with another package all of them have to run."""
    sources = sorted(
        path for path in package.rglob("*") if path.suffix in (".py", ".cpp", ".h", ".html")
    )
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sources:
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    record = examples / "package.sha256"
    if not record.is_file() or record.read_text() != digest.hexdigest():
        for path in examples.glob("*.py.md5"):
            path.unlink()
    examples.mkdir(exist_ok=True)
    record.write_text(digest.hexdigest())


def reset(gallery_conf, name):
    """Before each example."""
    warnings.filterwarnings("ignore", message="grey pixels")
    torch.set_num_threads(1)
    pyro.clear_param_store()
    torch.manual_seed(0)


def figures(block, block_vars, gallery_conf):
    """Saves the figures that a block has made: ours are plain `Figure`s, which pyplot does not know."""
    names = block_vars["example_globals"]
    saved = names.setdefault("__saved__", [])
    paths = []
    for value in list(names.values()):
        if isinstance(value, Figure) and not any(value is figure for figure in saved):
            saved.append(value)
            path = next(block_vars["image_path_iterator"])
            value.savefig(path, dpi=110, bbox_inches="tight")
            paths.append(path)
    return "".join(
        figure_rst([path], gallery_conf["src_dir"]) for path in paths
    )  # each in full width
