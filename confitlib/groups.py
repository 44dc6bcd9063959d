"""Documents that are one to whoever learns or is tested: an original with its copies, and twins by text."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from confitlib.corpus import COPY_OF, PLACEHOLDER, Corpus, Side


def groups_of(corpus: Corpus, side: Side) -> pd.Series:
    """The group of every document by id, named by the smallest id in it."""
    ids = pd.Series(corpus.documents(side).index, index=corpus.documents(side).index)
    return ids.groupby(twin_groups(corpus, side).indices).transform("min")


def copy_groups(frame: pd.DataFrame) -> csr_array:
    """Groups of originals and their augmented copies, one-hot `[documents, groups]`."""
    ids = pd.Series(frame.index.astype(str))
    if COPY_OF not in frame.columns:
        return _grouped(ids)
    origin = frame[COPY_OF].fillna("").astype(str).reset_index(drop=True)
    return _grouped(ids, origin.where(origin != "", ids))


def twin_groups(corpus: Corpus, side: Side) -> csr_array:
    """Groups of documents with the same text (case and spacing aside), and of the copies of these, one-hot."""
    ids = pd.Series(corpus.documents(side).index.astype(str))
    copies = pd.Series(copy_groups(corpus.documents(side)).indices)
    frame = corpus.documents(side)[corpus.fields(side)].fillna("").astype(str).reset_index(drop=True)
    fields = [frame[name].str for name in frame]
    hidden = np.any([field.fullmatch(PLACEHOLDER) for field in fields], axis=0)
    words = [field.casefold().str.split().str.join(" ") for field in fields]
    text = pd.Series(["\x1f".join(parts) for parts in zip(*words, strict=True)], dtype="str")
    said = ~hidden & (text.str.strip("\x1f") != "")  # absent or withheld text shows no likeness
    return _grouped("copy " + copies.astype(str), ("text " + text).where(said, "id " + ids))


def _grouped(*keys: pd.Series) -> csr_array:
    """Documents that share any key, directly or through others, as one group: one-hot `[documents, groups]`."""
    n, names = len(keys[0]), pd.factorize(pd.concat(keys))[0]
    rows = np.tile(np.arange(n), len(keys))
    size = n + int(names.max(initial=-1)) + 1
    shares = coo_array((np.ones(len(rows), dtype=bool), (rows, n + names)), shape=(size, size))
    labels = connected_components(shares, directed=False)[1][:n]
    return csr_array((np.ones(n, dtype=bool), (np.arange(n), labels)), shape=(n, int(labels.max(initial=-1)) + 1))
