"""Print the table of the data card: `python -m confitlib.market [PRESET …]`."""

import sys

from confitlib.market import PRESETS, compose
from confitlib.market.statistics import card_table

print(card_table(compose(name, seed=0) for name in sys.argv[1:] or PRESETS))
