"""BPJFNN and APJFNN: bidirectional LSTMs over words, without and with ability-aware attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from confitlib.corpus import Side
from confitlib.rankers.layers import Attention, BiLSTM, Compare
from confitlib.rankers.networks import Encoded, PairNetwork, masked_mean, present
from confitlib.rankers.neural import PairMatcher, PairTraining
from confitlib.rankers.pieces import PADDING, TokenVectors


class BPJFNNetwork(PairNetwork):
    """One BiLSTM over all words of a document; a document is the mean of its states."""

    def __init__(self, dim: int, hidden: int, dropout: float, train_tokens: bool) -> None:
        super().__init__()
        self.tokens, self.lstm = TokenVectors(dim, train_tokens), BiLSTM(dim, hidden)
        self.compare = Compare(2 * hidden, dropout)

    def encode(self, side: Side, inputs: Tensor) -> Encoded:
        """The document's part of the comparison."""
        ids = inputs.flatten(1)
        real = ids != PADDING
        states = self.lstm(self.tokens(ids), real)
        return (self.compare.part(side, masked_mean(states, real, 1)),)

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        return self.compare(resumes[0], jobs[0])


class BPJFNN(PairMatcher):
    """BPJFNN, the basic model in Qin et al. 2018 (arXiv 1812.08947): BiLSTM, mean over time, network on [j; r; j - r].

    The mean runs over the words of a text; RecBole-PJF divides their sum by the size of the batch. Both sides share
    the LSTM (our choice: it needs fewer pairs). Public settings: vectors of 128, hidden 32, dropout 0.2, 512 tokens
    (RecBole-PJF); 100, 100 and 256 tokens (MV-CoN code).
    """

    name, unit = "BPJFNN", "document"

    def __init__(
        self,
        dim: int = 64,
        hidden: int = 32,
        dropout: float = 0.2,
        config: PairTraining = PairTraining(epochs=2, max_pieces=1, max_tokens=256),
    ) -> None:
        self.dim, self.hidden, self.dropout, self.config = dim, hidden, dropout, config

    def build(self) -> BPJFNNetwork:
        """One LSTM for both sides and the comparison."""
        return BPJFNNetwork(self.dim, self.hidden, self.dropout, self.config.train_tokens)


class APJFNNetwork(PairNetwork):
    """Two levels of BiLSTMs and four attentions; the resume's two look at the job."""

    grid_pairs = 256

    def __init__(self, dim: int, hidden: int, dropout: float, train_tokens: bool) -> None:
        super().__init__()
        states = 2 * hidden
        self.tokens, self.words = TokenVectors(dim, train_tokens), BiLSTM(dim, hidden)
        self.lines = BiLSTM(states, hidden)  # of requirements as of experiences, so that both are comparable
        self.in_requirement, self.over_requirements = Attention(states), Attention(states)
        self.in_experience = nn.Linear(states, states, bias=False)  # bilinear: word state x requirement
        nn.init.eye_(self.in_experience.weight)
        self.over_experiences, self.job_context = Attention(states), nn.Linear(states, states, bias=False)
        self.compare = Compare(states, dropout)

    def encode(self, side: Side, inputs: Tensor) -> Encoded:
        """A resume as its word states, a job as its requirements and its whole."""
        real = present(inputs)
        words = self._word_states(inputs, real)
        if side == "resume":
            return words, inputs != PADDING
        needs = self.in_requirement(words, inputs != PADDING)
        whole = self.over_requirements(self.lines(needs, real), real)
        return self.in_experience(needs), real, whole

    def _word_states(self, ids: Tensor, real: Tensor) -> Tensor:
        lines = ids[real]
        states = self.words(self.tokens(lines), lines != PADDING)
        words = states.new_zeros((*ids.shape, states.shape[-1]))
        words[real] = states
        return words

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        lines, real = self.experience_vectors(resumes, jobs)
        flat_real = real.expand(lines.shape[:-1]).flatten(0, -2)
        states = self.lines(lines.flatten(0, -3), flat_real).view(*lines.shape[:-1], -1)
        context = self.job_context(jobs[2]).unsqueeze(-2)
        people = self.over_experiences(states, real, context)
        return self.compare(self.compare.part("resume", people), self.compare.part("job", jobs[2]))

    def experience_vectors(self, resumes: Encoded, jobs: Encoded) -> tuple[Tensor, Tensor]:
        """Each line of a resume as the requirements see it, `[..., lines, states]`, and which lines are real.

        Every requirement attends to the words of a line, and the mean over requirements is taken. The mean of sums
        is the sum with mean weights, so words are summed once and not once a requirement. Products are left to
        `einsum`, which repeats no document for the pairs that it is in.
        """
        (words, real_words), (needs, real_needs, _) = resumes, jobs
        scores = torch.einsum("...ltd,...kd->...lkt", words, needs / words.shape[-1] ** 0.5)
        scores.masked_fill_(~real_words.unsqueeze(-2), torch.finfo(scores.dtype).min)  # in place: a pass over the most
        shares = real_needs / real_needs.sum(-1, keepdim=True).clamp(min=1)
        mean = torch.einsum("...lkt,...k->...lt", scores.softmax(-1), shares)
        return torch.einsum("...lt,...ltd->...ld", mean, words), real_words.any(-1)


class APJFNN(PairMatcher):
    """APJFNN (Qin et al. 2018, arXiv 1812.08947): BiLSTMs with four ability-aware attentions.

    Words of a requirement are attended to, requirements are read by an LSTM and attended to; words of an experience are
    attended to from each requirement (bilinear, our choice: the attentions of all pairs are then one matrix product),
    the mean over requirements is read by an LSTM and attended to from the job; a network judges [j; r; j - r].
    Each level's size follows from `hidden`; in RecBole-PJF the second level expects twice the vectors' size and only
    runs where both are equal. Public settings: vectors of 128, hidden 64, dropout 0.2 (RecBole-PJF); 32 and 32, batch
    32, rate 3e-4 (MV-CoN code).
    """

    name = "APJFNN"

    def __init__(
        self,
        dim: int = 64,
        hidden: int = 32,
        dropout: float = 0.2,
        config: PairTraining = PairTraining(epochs=2, max_pieces=16, max_tokens=24),
    ) -> None:
        self.dim, self.hidden, self.dropout, self.config = dim, hidden, dropout, config

    def build(self) -> APJFNNetwork:
        """Two levels of LSTMs, four attentions and the comparison."""
        return APJFNNetwork(self.dim, self.hidden, self.dropout, self.config.train_tokens)
