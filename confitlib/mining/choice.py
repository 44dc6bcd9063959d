"""Choosing the band from data: where held-out matches fall in the rankings tells where unlabelled ones hide."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from confitlib.corpus import Corpus, Side, other
from confitlib.encoder.vectors import Embeddings
from confitlib.util import checked

RESAMPLES, SEED = 200, 0


@dataclass(frozen=True, eq=False)
class ChosenBand:
    """A band `[lo, hi)` with the curve it was chosen from.

    `curve`: a row a band that was considered: `lo, hi, rate` (estimated share of false negatives), `low, high`
    (95 % bootstrap over queries). `matches`: held-out accepted pairs that the estimate rests on.
    """

    lo: float
    hi: float
    curve: pd.DataFrame
    matches: int


@checked
def choose_band(
    corpus: Corpus, embeddings: Embeddings, target: Side, width: float = 0.01, bound: float = 0.1, top_rate: float = 1.0
) -> ChosenBand:
    """The hardest band of a given width whose estimated share of false negatives stays within a bound. Ours.

    Accepted pairs of the validation split are ranked among the training pool of `target`: an unlabelled match would
    fall where they fall. Their density along the ranking, which must not rise (isotonic regression on bins of half a
    width), becomes shares of false negatives by assuming that `top_rate` of the first bin are matches: 1 makes the
    estimate an upper bound. Labels alone are used, never the truth. Assumes that accepted pairs are as easy to rank
    as unlabelled matches. Raises ValueError without held-out accepted pairs, or if no band meets the bound.

    >>> from confitlib import Embeddings, choose_band, compose, load_encoder
    >>> corpus = compose("tiny").corpus
    >>> embeddings = Embeddings.of_corpus(load_encoder("static"), corpus)
    >>> band = choose_band(corpus, embeddings, "resume", width=0.05, bound=0.3)
    >>> round(band.lo, 3), round(band.hi, 3), band.matches
    (0.125, 0.175, 44)
    """
    if not 0 < width <= 0.5 or not 0 < bound <= 1 or not 0 < top_rate <= 1:
        raise ValueError(f"needs 0 < width <= 0.5, 0 < bound <= 1, 0 < top_rate <= 1, got {width}, {bound}, {top_rate}")
    embeddings.check(corpus)
    accepted, sides = corpus.labelled("valid", 1), (other(target), target)
    pool = embeddings.of(target)[corpus.positions(target, corpus.pool(target, "train"))]
    if accepted.empty or not len(pool):
        raise ValueError(f"corpus {corpus.name!r}: the valid split needs accepted pairs and the train split {target}s")
    # 1. the share of the training pool that scores higher than each held-out match  [pairs]
    queries, matches = (embeddings.of(side)[corpus.positions(side, accepted[f"{side}_id"])] for side in sides)
    scores = np.einsum("nd,nd->n", queries, matches)
    percentiles = np.array([(pool @ query > score).mean() for query, score in zip(queries, scores, strict=True)])
    # 2. the same of queries that are resampled with all their matches
    of_query = pd.Series(percentiles).groupby(accepted[f"{sides[0]}_id"].to_numpy()).agg(list).tolist()
    draws = np.random.default_rng(SEED).integers(len(of_query), size=(RESAMPLES, len(of_query)))
    samples = [percentiles, *(np.concatenate([of_query[place] for place in one]) for one in draws)]
    # 3. from each the share of false negatives in every band: the falling density of two neighbouring bins, relative
    #    to that of the first  [1 + RESAMPLES, bins - 1]
    bins, estimates = round(2 / width), []
    for sample in samples:
        counts = np.histogram(sample, bins=bins, range=(0, 1))[0]
        density = IsotonicRegression(increasing=False).fit_transform(np.arange(bins), counts)
        estimates.append(top_rate * ((density[:-1] + density[1:]) / 2 / max(density[0], 1e-12)))
    low, high = np.quantile(estimates[1:], [0.025, 0.975], axis=0)
    starts = np.arange(bins - 1) / bins
    curve = pd.DataFrame({"lo": starts, "hi": starts + 2 / bins, "rate": estimates[0], "low": low, "high": high})
    # 4. the first band within the bound
    safe = curve[curve["rate"] <= bound]
    if safe.empty:
        raise ValueError(f"every band of width {width} may hold over {bound:.0%} matches: allow more, or label more")
    return ChosenBand(float(safe["lo"].iloc[0]), float(safe["hi"].iloc[0]), curve, len(accepted))
