"""Transferable deep global match: sentences of both documents interact, and domains are drawn together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import Corpus, Side
from confitlib.rankers.base import named_for_jobs
from confitlib.rankers.layers import Attention, BiLSTM, TokenConvolution
from confitlib.rankers.networks import Encoded, PairNetwork, masked_softmax, present
from confitlib.rankers.neural import Inputs, PairMatcher, PairTraining
from confitlib.rankers.pairs import PairBatch
from confitlib.rankers.pieces import PADDING, TokenVectors

SAMPLED = 256  # vectors of a domain that are compared at a level


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples `[n, d]`, `[m, d]` (Gretton et al. 2012, biased estimate).

    The kernel is exp(-|x - y|² / median), the median over distinct pairs of both samples. Zero for an empty sample.
    """
    if not len(source) or not len(target):
        return source.sum() * 0 + target.sum() * 0
    both = torch.cat([source, target])
    squared = (both**2).sum(1)
    distances = (squared[:, None] + squared - 2 * both @ both.T).clamp(min=0)
    n, apart = len(source), ~torch.eye(len(both), dtype=torch.bool, device=both.device)
    kernel = torch.exp(-distances / distances[apart].detach().median().clamp(min=1e-6))
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def spread(vectors: Tensor) -> Tensor:
    """At most `SAMPLED` of the rows, evenly spread."""
    return vectors[:: max(1, -(-len(vectors) // SAMPLED))]


class GlobalMatchNetwork(PairNetwork):
    """Words to sentences to context, then match vectors of a job's sentences, then one vector of the pair."""

    grid_pairs = 4096

    def __init__(self, dim: int, hidden: int, train_tokens: bool) -> None:
        super().__init__()
        states = 2 * hidden
        self.words = TokenConvolution(TokenVectors(dim, train_tokens), dim, dim, 3)
        self.over_words, self.context = Attention(dim), BiLSTM(dim, hidden)
        self.align = nn.Linear(states, states, bias=False)
        nn.init.eye_(self.align.weight)
        self.from_job, self.from_resume = nn.Linear(states, states), nn.Linear(states, states, bias=False)
        self.from_likeness = nn.Parameter(torch.full((states,), 0.5))
        self.over_matches, self.out = nn.Linear(states, 1, bias=False), nn.Linear(states, 1)
        with torch.no_grad():  # a job's sentence starts by asking for the likest sentences of the resume
            for layer in (self.from_job, self.from_resume):
                layer.weight *= 0.1
            self.out.weight.fill_(4 / states)
            self.out.bias.fill_(-2.0)

    def encode(self, side: Side, inputs: Tensor) -> Encoded:
        """Sentences `[documents, lines, states]` in context, what they give to a match, and which are real."""
        real = present(inputs)
        sentences = self.out.weight.new_zeros((*real.shape, self.words.channels))
        sentences[real] = self._sentences(inputs[real])
        states = self.context(sentences, real)
        if side == "resume":
            return self.align(states), self.from_resume(states), real
        return states, self.from_job(states), real

    def _sentences(self, ids: Tensor) -> Tensor:
        real = ids != PADDING
        words = self.out.weight.new_zeros((*ids.shape, self.words.channels))
        words[real] = torch.tanh(self.words(ids))
        return self.over_words(words, real)

    def matches(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """How each sentence of a job is met, `[..., lines, states]`, from the resume's sentences it attends to.

        tanh(W1 s + W2 a + w3 (s . a)), with `a` the attended mean of the resume; W2 is applied before the mean.
        """
        scores = torch.einsum("...ld,...kd->...kl", resumes[0], jobs[0]) / resumes[0].shape[-1] ** 0.5
        weights = masked_softmax(scores, resumes[2].unsqueeze(-2))
        likeness = (weights * scores).sum(-1, keepdim=True)
        attended = torch.einsum("...kl,...ld->...kd", weights, resumes[1])
        return torch.tanh(jobs[1] + attended + likeness * self.from_likeness)

    def whole(self, matches: Tensor, real: Tensor) -> Tensor:
        """The vector of a pair: its match vectors, weighted by attention."""
        weights = masked_softmax(self.over_matches(matches).squeeze(-1), real)
        return (weights.unsqueeze(-2) @ matches).squeeze(-2)

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        return self.out(self.whole(self.matches(resumes, jobs), jobs[2])).squeeze(-1)

    def discrepancies(self, resumes: Encoded, jobs: Encoded, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """MMD between source and target pairs (`target` `[n]`): of sentences, of sentence matches, of whole matches."""
        matches = self.matches(resumes, jobs)
        wholes = self.whole(matches, jobs[2])
        levels = [(resumes[0], resumes[2]), (jobs[0], jobs[2]), (matches, jobs[2])]
        people, posts, met = (
            mmd(*(spread(vectors[side][real[side]]) for side in (~target, target))) for vectors, real in levels
        )
        return (people + posts) / 2, met, mmd(wholes[~target], wholes[target])


class GlobalMatch(PairMatcher):
    """Transferable deep global match (Bian et al. 2019, D19-1487): sentence interaction, three levels of adaptation.

    Without `domains` the plain global match. `domains`: the domain of every job, by id or as a column of the jobs;
    jobs of `target_domains` take part in adaptation, while their labels are not used. `adaptation`: weights of the
    discrepancy between source and target at the levels of sentence representation, sentence match and global
    match. No public source gives the equations: the hierarchical encoder (convolution, attention, BiLSTM), the
    match vectors and MMD as the discrepancy are our choices.
    """

    name = "GlobalMatch"
    network: GlobalMatchNetwork

    def __init__(
        self,
        domains: Mapping[str, str] | str | None = None,
        target_domains: Sequence[str] = (),
        adaptation: Sequence[float] = (0.1, 0.1, 0.1),
        dim: int = 64,
        hidden: int = 32,
        config: PairTraining = PairTraining(),
    ) -> None:
        self.domains, self.target_domains, self.adaptation = domains, target_domains, adaptation
        self.dim, self.hidden, self.config = dim, hidden, config

    def build(self) -> GlobalMatchNetwork:
        """The encoder and the interaction."""
        return GlobalMatchNetwork(self.dim, self.hidden, self.config.train_tokens)

    def learn(self, corpus: Corpus) -> Self:
        """Train; raises ValueError if `domains` and `target_domains` do not divide the jobs of the corpus."""
        self._target = self._in_target(corpus)
        return super().learn(corpus)

    def loss(self, batch: PairBatch, inputs: dict[Side, Inputs]) -> Tensor:
        """Cross-entropy of source pairs plus the weighted discrepancies."""
        if self.domains is None:
            return super().loss(batch, inputs)
        resumes, jobs = self.encoded_pairs(batch, inputs)
        target = torch.from_numpy(self._target[batch.documents["job"]][batch.pairs["job"]]).to(self._device)
        labels = torch.from_numpy(batch.labels).to(self._device)
        fit = F.binary_cross_entropy_with_logits(self.network(resumes, jobs)[~target], labels[~target], reduction="sum")
        levels = self.network.discrepancies(resumes, jobs, target)
        return fit / max(1, int((~target).sum())) + sum(w * d for w, d in zip(self.adaptation, levels, strict=True))

    def _in_target(self, corpus: Corpus) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which jobs belong to the target domains, in frame order; none without domains."""
        if self.domains is None:
            return np.zeros(len(corpus.jobs), dtype=bool)
        names = named_for_jobs(corpus, self.domains, "domains")
        target = names.isin(list(self.target_domains)).to_numpy()
        training = target[corpus.positions("job", corpus.labelled("train")["job_id"])]
        if not training.any() or training.all():
            raise ValueError(
                f"target_domains={list(self.target_domains)} holds {'all' if training.all() else 'none'} of the "
                f"training pairs: choose some of {sorted(set(names))}"
            )
        return target
