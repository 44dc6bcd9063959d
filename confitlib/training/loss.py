"""The contrastive losses of ConFit v2 and v1."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from confitlib.util import checked


@checked
def contrastive_loss(
    resumes: Tensor,
    jobs: Tensor,
    negative_resumes: Tensor | None = None,
    negative_jobs: Tensor | None = None,
    *,
    masked_jobs: Tensor | None = None,
    masked_resumes: Tensor | None = None,
    temperature: float = 0.05,
    lambda_: float = 0.5,
    normalized: bool = True,
    official: bool = False,
) -> Tensor:
    """The two-sided loss `lambda_ * L_r2j + (1 - lambda_) * L_j2r` over a batch of B matching pairs.

    `resumes`, `jobs`: `[B, d]`, row i of one matches row i of the other. `negative_resumes`,
    `negative_jobs`: `[H, d]` hard negatives shared by all anchors of the batch. `masked_jobs`
    `[B, B + H_jobs]` and `masked_resumes` `[B, B + H_resumes]` mark candidates that are known positives
    of the anchor and must not count as negatives; `official=True` ignores them and turns a NaN loss
    into zero. Source: ConFit v2 loss, confit.py:compute_coarsegrained_loss_dist.

    >>> import torch
    >>> from confitlib import contrastive_loss
    >>> round(float(contrastive_loss(torch.eye(2), torch.eye(2), temperature=1.0)), 3)
    0.313
    """
    # 1. what fits together
    parts = {"resumes": resumes, "jobs": jobs, "negative_resumes": negative_resumes, "negative_jobs": negative_jobs}
    for name, part in parts.items():
        if part is not None and (part.ndim != 2 or part.shape[1] != resumes.shape[-1] or not part.is_floating_point()):
            raise ValueError(f"{name} of {part.dtype} {[*part.shape]}: give rows of floats, all as wide")
    if not 0 < len(resumes) == len(jobs):
        raise ValueError(f"{len(resumes)} resumes, {len(jobs)} jobs: give one job for each resume")
    if not 0 < temperature < math.inf or not 0 <= lambda_ <= 1:
        raise ValueError(f"temperature={temperature} must be above 0, lambda_={lambda_} between 0 and 1")
    # 2. candidates of each side, and the loss of both
    job_candidates = jobs if negative_jobs is None else torch.cat([jobs, negative_jobs])
    resume_candidates = resumes if negative_resumes is None else torch.cat([resumes, negative_resumes])
    if normalized:
        job_candidates, resume_candidates = normalize(job_candidates, dim=-1), normalize(resume_candidates, dim=-1)
        resumes, jobs = resume_candidates[: len(resumes)], job_candidates[: len(jobs)]
    if official:
        masked_jobs = masked_resumes = None
    r2j = info_nce(resumes, job_candidates, temperature, masked_jobs)
    j2r = info_nce(jobs, resume_candidates, temperature, masked_resumes)
    loss = lambda_ * r2j + (1 - lambda_) * j2r
    return loss.nan_to_num() if official else loss


def confit_v1_loss(
    resumes: Tensor,
    jobs: Tensor,
    negative_resumes: Tensor | None = None,
    negative_jobs: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The loss of ConFit v1 over a batch of B matching pairs: inner products, nothing masked.

    A job must pick its resume if the batch has hard negative resumes, a resume its job if it has hard negative jobs;
    without either only the resumes pick. Shapes as in `contrastive_loss`. Source: ConFit v1,
    `compute_coarsegrained_loss`.
    """
    sides = [(jobs, resumes, negative_resumes), (resumes, jobs, negative_jobs)]
    with_negatives = [side for side in sides if side[2] is not None and len(side[2])]
    terms = [
        info_nce(anchors, candidates if extra is None else torch.cat([candidates, extra]), temperature)
        for anchors, candidates, extra in with_negatives or [sides[1]]
    ]
    return torch.stack(terms).sum()


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float, masked: Tensor | None = None) -> Tensor:
    """InfoNCE: anchor i `[B, d]` must pick candidate i among all candidates `[B + H, d]` it is not masked from.

    Scores are float32 under autocast too: divided by a small temperature, those of bf16 are off by tenths.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        scores = anchors.float() @ candidates.float().T / temperature
    if masked is not None and (masked.shape != scores.shape or masked.dtype != torch.bool):
        raise ValueError(f"masked_jobs and masked_resumes must be booleans, here of shape {[*scores.shape]}")
    if masked is not None:
        scores = scores.masked_fill(masked, -torch.inf)
    return cross_entropy(scores, torch.arange(len(anchors), device=anchors.device))
