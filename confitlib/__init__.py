"""confitlib: a Jupyter-first reproducibility kit for ConFit v2.

The front door: `from confitlib import compose, mine, …` gives what most notebooks need. A name loads its module when it
is first used, so that the `confit` command starts at once.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

HOMES = {
    "Corpus": "corpus",
    "compose": "market",
    "load": "readers",
    "load_pairs": "readers",
    "texts": "text",
    "hyre": "augment",
    "load_encoder": "encoder",
    "Embeddings": "encoder",
    "mine": "mining",
    "choose_band": "mining",
    "TrainingConfig": "training",
    "train": "training",
    "contrastive_loss": "training",
    "BM25": "rankers",
    "RawEmbed": "rankers",
    "InBatch": "rankers",
    "ConFitV2": "rankers",
    "evaluate_ranking": "evaluation",
    "compare": "evaluation",
    "false_negatives": "audit",
    "audit_bands": "audit",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'confitlib' has no attribute {name!r}")
    return getattr(import_module(f"confitlib.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *HOMES]
