"""Hard-negative mining: every strategy behind one call, and the table of negatives it returns."""

from confitlib.encoder.vectors import Embeddings
from confitlib.mining.choice import choose_band
from confitlib.mining.negatives import Negatives, read_official, write_official
from confitlib.mining.ranking import mine_band as mine_band
from confitlib.mining.strategies import STRATEGIES, mine
from confitlib.mining.strategies import check_mining as check_mining

__all__ = ["STRATEGIES", "Embeddings", "Negatives", "choose_band", "mine", "read_official", "write_official"]
