"""cRLHF on Ray: train code models from line-by-line crowd feedback (arXiv 2503.15129)."""

__version__ = "0.1.0"
