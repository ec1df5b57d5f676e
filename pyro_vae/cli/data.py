"""`pyro-vae data list` and `pyro-vae data fetch`: the named data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from pyro_vae._utils.checks import InputError, one_of
from pyro_vae._utils.console import show
from pyro_vae.cli.options import DataRoot
from pyro_vae.spec import DATASETS

app = typer.Typer(no_args_is_help=True, help="List and download data sets.")


@app.command("list")
def list_datasets(data_root: DataRoot = None) -> None:
    """List the named data sets, and whether they are on this machine."""
    from pyro_vae.data import load_data

    for name in DATASETS:
        try:
            train, test = load_data(name, data_root)
            show(f"{name:14} here: {len(train):,} training and {len(test):,} test images of shape {train.shape}")
        except InputError as error:
            show(f"{name:14} not here: {error}")


@app.command("fetch")
def fetch_dataset(name: Annotated[str, typer.Argument(help=", ".join(DATASETS))], data_root: DataRoot = None) -> None:
    """Download a named data set through torchvision, and check it."""
    one_of("name", name, DATASETS)

    from pyro_vae.data import load_data

    train, test = load_data(name, data_root, download=True)
    show(f"{name}: {len(train):,} training and {len(test):,} test images")
