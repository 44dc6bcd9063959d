"""The data card's table, or a market of any size as Parquet files.

python -m confitlib.market [PRESET …]
python -m confitlib.market PRESET --parquet DIR --shards N [--seed SEED]
"""

import argparse
from pathlib import Path

from confitlib.market import PRESETS, compose, compose_to_parquet
from confitlib.market.statistics import card_table

raw = argparse.RawDescriptionHelpFormatter
parser = argparse.ArgumentParser(prog="python -m confitlib.market", description=__doc__, formatter_class=raw)
parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"one of {', '.join(PRESETS)}; all by default")
parser.add_argument("--parquet", type=Path, metavar="DIR", help="write Parquet shards here instead of a table")
parser.add_argument("--shards", type=int, default=10, help="train splits of the preset, one a file (10)")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
if options.parquet is None:
    print(card_table(compose(name, seed=options.seed) for name in options.presets or PRESETS))
elif len(options.presets) != 1:
    parser.error("--parquet needs exactly one preset")
else:
    print(compose_to_parquet(options.presets[0], options.seed, options.parquet, options.shards))
