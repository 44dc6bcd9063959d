"""The synthetic labour market: a seeded corpus of resumes and jobs whose true fit is known for every pair."""

from __future__ import annotations

from confitlib.market.market import PRESETS, Market, Preset, compose

__all__ = ["PRESETS", "Market", "Preset", "compose"]
