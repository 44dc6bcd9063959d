"""The synthetic labour market: resumes and jobs from one seed, with the true fit of every pair."""

from confitlib.market.compose import PRESETS, Market, Preset, compose, compose_to_parquet
