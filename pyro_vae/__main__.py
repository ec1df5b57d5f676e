"""`python -m pyro_vae` is `pyro-vae`."""

import sys

from pyro_vae.cli import main

sys.exit(main())
