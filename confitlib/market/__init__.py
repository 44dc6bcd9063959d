"""The synthetic labour market: resumes and jobs from one seed, with the true fit of every pair."""

from confitlib.market.market import Market, compose
from confitlib.market.presets import PRESETS, Preset

__all__ = ["PRESETS", "Market", "Preset", "compose"]
