"""The command line, one file per command."""

from pyro_vae.cli.app import main

__all__ = ["main"]
