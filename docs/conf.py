"""Sphinx's settings. `make docs` builds the site into docs/_build/html, without a network and without a warning."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault(
    "PYRO_VAE_CACHE", str(HERE / "_build" / "cache")
)  # the examples' classifier, trained once

import gallery  # noqa: E402
import inventories  # noqa: E402

import pyro_vae  # noqa: E402

project = "pyro_vae"
author = "the pyro_vae authors"
copyright = "the pyro_vae authors, Apache-2.0"
version = release = pyro_vae.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "code_map",
    "equations",
    "metrics",
    "results",
    "studies",
]
exclude_patterns = ["_build", "_templates", "results/**", "inventories"]
templates_path = ["_templates"]
root_doc = "index"
nitpicky = False

# --- text ---
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
default_role = (
    "py:obj"  # single backticks in docstrings are code, and links where such a name exists
)
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# --- reference ---
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autosummary_generate = True
autosummary_ignore_module_all = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# --- names of other projects: small inventories that are kept here, since the site is built without a network ---
intersphinx_mapping = inventories.mapping(HERE / "inventories", HERE / "_build" / "inventories")
intersphinx_disabled_reftypes = ["std:doc"]

# --- page ---
html_theme = "furo"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# --- mathematics: MathJax from the package, one file that needs no fonts and no network ---
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {
    "tex": {"tags": "none"},
    "svg": {"fontCache": "global"},
    "options": {"enableMenu": False},
}

# --- examples: run anew where they or the package have changed; what they printed and drew stays in docs/examples ---
gallery.forget_if_changed(HERE / "examples", Path(pyro_vae.__file__).parent)
sphinx_gallery_conf = {
    "parallel": gallery.in_processes(HERE / "_ext"),
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": r"plot_",
    "image_scrapers": ("gallery.figures",),
    "reset_modules": ("gallery.reset",),
    "within_subsection_order": "gallery.Order",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "plot_gallery": True,
    "capture_repr": (),
    "min_reported_time": 1,
    "nested_sections": False,
    "write_computation_times": False,
}


def setup(app):
    app.connect("builder-inited", _copy_mathjax)
    app.connect("missing-reference", _public_name)


def _public_name(app, env, node, contents):
    """`pyro_vae.fit` leads to where `fit` is defined."""
    name = node.get("reftarget", "").removeprefix("pyro_vae.")
    if name not in pyro_vae.__all__ or name.startswith("_"):
        return None
    home = f"{getattr(pyro_vae, name).__module__}.{name}"
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", home, node, contents
    )


def _copy_mathjax(app):
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.submodule_search_locations[0]) / "static" / "mathjax" / "tex-svg.js"
    target = Path(app.outdir) / "_static" / mathjax_path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
