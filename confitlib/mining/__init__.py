"""Hard-negative mining: every strategy behind one call, and the table of negatives it returns."""

from confitlib.encoder.vectors import Embeddings
from confitlib.mining.choice import choose_band
from confitlib.mining.negatives import Negatives, mined_counts, read_official, write_official
from confitlib.mining.ranking import band_window, mine_band
from confitlib.mining.strategies import STRATEGIES, check_mining, mine
