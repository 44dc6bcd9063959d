"""The synthetic labour market: resumes and jobs from one seed, with the true fit of every pair."""

from confitlib.market.market import Market, compose
from confitlib.market.presets import PRESETS, Preset
from confitlib.market.shards import compose_to_parquet

__all__ = ["PRESETS", "Market", "Preset", "compose", "compose_to_parquet"]
