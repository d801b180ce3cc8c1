"""One command line: ``crlhf ...``. Heavy imports wait inside the commands, so that ``--help`` answers at once."""

from crlhf_ray.cli import machine, training, crowd, programs  # noqa: F401, I001  in this order --help lists them
from crlhf_ray.cli.app import app
from crlhf_ray.cli.stopping import main

__all__ = ["app", "main"]
