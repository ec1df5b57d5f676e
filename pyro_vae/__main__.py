"""`python -m pyro_vae` is `pyro-vae`."""

import sys

from pyro_vae.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
