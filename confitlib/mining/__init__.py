"""Hard-negative mining: every strategy behind one call, and the table of negatives it returns."""

from confitlib.mining.choice import ChosenBand, choose_band
from confitlib.mining.negatives import Negatives, read_official, write_official
from confitlib.mining.registry import STRATEGIES, check_mining, mine
from confitlib.mining.task import Embeddings

__all__ = [
    "STRATEGIES",
    "ChosenBand",
    "Embeddings",
    "Negatives",
    "check_mining",
    "choose_band",
    "mine",
    "read_official",
    "write_official",
]
