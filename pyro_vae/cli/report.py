"""`pyro-vae report`: a run or a study as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae._utils.console import show
from pyro_vae.cli.options import path


def report(
    folder: Annotated[Path, typer.Argument(help="study folder or run folder", parser=path, metavar="DIR")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; report.html in the folder by default",
            show_default=False,
            parser=path,
            metavar="PATH",
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a study or a run."""
    from pyro_vae.experiments.report.page import report as write_report

    page = write_report(folder, out)
    show(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
