"""confitlib: a Jupyter-first reproducibility kit for ConFit v2.

The front door: `from confitlib import compose, mine, …` gives what most notebooks need. A name loads its module when it
is first used, so that the `confit` command starts at once.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

MODULES = {
    "corpus": "Corpus",
    "market": "compose",
    "readers": "load load_pairs",
    "text": "texts",
    "augment": "hyre",
    "encoder": "Embeddings load_encoder",
    "mining": "choose_band mine",
    "training": "TrainingConfig contrastive_loss train",
    "rankers": "BM25 ConFitV2 InBatch RawEmbed",
    "evaluation": "compare evaluate_ranking",
    "audit": "audit_bands false_negatives",
}
HOMES = {name: module for module, names in MODULES.items() for name in names.split()}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'confitlib' has no attribute {name!r}")
    return getattr(import_module(f"confitlib.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *HOMES]
