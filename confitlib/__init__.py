"""confitlib: a Jupyter-first reproducibility kit for ConFit v2."""

__version__ = "0.1.0"
