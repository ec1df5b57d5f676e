"""The command line, one file per command."""

from pyro_vae.cli.app import app, main

__all__ = ["app", "main"]
