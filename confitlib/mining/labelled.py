"""Annotated rejections as negatives, as ConFit v1 trains."""

from __future__ import annotations

import numpy as np

from confitlib.mining.removal import codes_at, count_reasons
from confitlib.mining.task import Selection, Task


def rejected(task: Task) -> Selection:
    """Training pairs labelled 0, in id order; a rejected copy or twin of a positive is left out.

    Candidates are the rejections alone. Embeddings are optional and only score the picks. Source: ConFit v1,
    hard negatives of the contrastive loss; in the v2 code the case without `--hard_negative_path`.
    """
    query, item = task.labelled(0)
    codes = codes_at(task.known, query, item)
    free = codes == 0
    counts = np.bincount(query[free], minlength=len(task.query_ids))
    picks = task.draw(task.unranked(query[free], item[free]))
    return Selection(picks, counts, count_reasons(query, codes, len(task.query_ids)))
