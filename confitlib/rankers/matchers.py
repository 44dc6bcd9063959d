"""The neural matchers: for each published system its network and, below it, what the ranker reads and sets.

Networks start as plain measures of likeness: with a few thousand pairs, one of random weights would spend them all on
finding out that likeness matters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from confitlib.corpus import SIDES, Corpus, Side, other
from confitlib.rankers.base import named_for_jobs
from confitlib.rankers.pair_training import PAD, Encoded, Matcher, PairMatcher, PairTraining, static_encoder, token_ids
from confitlib.text import texts

SAMPLED = 256  # vectors of a domain that are compared at a level


# Layers of several matchers


def masked_mean(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean over the marked entries of a dimension; zeros where none is marked. `mask` lacks the last dimension."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(dim) / weights.sum(dim).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the marked entries of the last dimension; zeros where none is marked."""
    least = torch.finfo(scores.dtype).min  # unlike -inf, it leaves no NaN where nothing is marked
    return scores.masked_fill(~mask, least).softmax(-1) * mask.any(-1, keepdim=True)


def spread(values: Tensor, real: Tensor) -> Tensor:
    """Values `[n, …]` at the n marked places, in their order; zeros at the others."""
    everywhere = values.new_zeros((*real.shape, *values.shape[1:]))
    everywhere[real] = values
    return everywhere


def by_line(read: Callable[[Tensor], Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Apply `read` to the lines that hold a token; ids `[documents, lines, tokens]` give `[documents, lines, …]`.

    Returns zeros for the other lines, and which lines hold a token.
    """
    real = (ids != PAD).any(-1)
    return spread(read(ids[real]), real), real


class TokenVectors(nn.Module):
    """Vectors of token ids: those of the offline MiniLM, mapped linearly to `dim`; padding gives zeros.

    The map starts as the principal axes of the table (`dim` at most 384), scaled to a mean square of one, and is
    trained, which moves words that training never met along with the others.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        table = static_encoder().backbone.token_vectors.detach()  # [vocabulary, 384]
        self.table = nn.Buffer(table, persistent=False)
        self.map = nn.Linear(table.shape[1], dim, bias=False)
        variances, axes = torch.linalg.eigh(table.T @ table / len(table))  # ascending
        self.map.weight.data.copy_(axes[:, -dim:].T / variances[-dim:].mean().sqrt())

    def distinct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors `[distinct, dim]` of the distinct ids in ascending order, and the place of every id among them."""
        distinct, places = ids.unique(return_inverse=True)
        return self.map(self.table[distinct]) * (distinct != PAD).unsqueeze(1), places

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[..., dim]` of ids of any shape; a token is mapped once, however often it occurs."""
        vectors, places = self.distinct(ids)
        return F.embedding(places, vectors)


def convolution(dim: int, channels: int, width: int) -> nn.Conv1d:
    """A convolution over words that starts near the identity, so that words count as themselves from the beginning."""
    layer = nn.Conv1d(dim, channels, width, padding="same")
    with torch.no_grad():
        layer.weight.normal_(std=0.3 * (width * dim) ** -0.5)
        layer.weight[:, :, width // 2] += torch.eye(channels, dim)
    return layer


class TokenConvolution(nn.Module):
    """A convolution over the token vectors of texts; zeros at padding.

    It is linear in every token, so what a token adds to a window is computed once for each distinct token, which takes
    a third of the time of `nn.Conv1d` on padded texts and gives the same numbers.
    """

    def __init__(self, tokens: TokenVectors, channels: int, width: int) -> None:
        super().__init__()
        self.tokens, self.layer = tokens, convolution(tokens.map.out_features, channels, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids `[n, tokens]` to `[n, tokens, channels]`."""
        channels, dim, width = self.layer.weight.shape
        # 1. what each distinct token adds from each place of a window  [distinct * width, channels]
        vectors, places = self.tokens.distinct(F.pad(ids, ((width - 1) // 2, width // 2)))
        parts = (vectors @ self.layer.weight.permute(1, 2, 0).reshape(dim, -1)).view(-1, channels)
        # 2. their sums over the windows around real tokens
        real = ids != PAD
        windows = places.unfold(1, width, 1)[real] * width + torch.arange(width, device=ids.device)
        return spread(F.embedding_bag(windows, parts, mode="sum") + cast(Tensor, self.layer.bias), real)


class RunningNorm(nn.Module):
    """Centres and scales each dimension of vectors `[..., dim]` by running moments, in training as afterwards.

    Batch norm would use the moments of the batch, which holds few jobs. No gradient flows through the moments.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.batches = 0
        self.moments = nn.Buffer(torch.stack([torch.zeros(dim), torch.ones(dim)]))  # mean and variance

    def forward(self, vectors: Tensor) -> Tensor:
        """The normalised vectors."""
        if self.training:
            self.batches += 1
            flat = vectors.detach().flatten(0, -2)
            moments = torch.stack([flat.mean(0), flat.var(0, correction=0)])
            self.moments.lerp_(moments, max(0.1, 1 / self.batches))  # a plain average of the first ten batches
        mean, variance = self.moments
        return (vectors - mean) * (variance + 1e-5).rsqrt()


class BiLSTM(nn.Module):
    """Normalised states `[n, time, 2 * hidden]` of `[n, time, dim]`; padding, marked False at the end, is not read.

    Two LSTMs, the second on mirrored sequences: on a CPU the gradient of a packed sequence takes nine times as long.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ahead, self.back = (nn.LSTM(dim, hidden, batch_first=True) for _ in range(2))
        self.norm = RunningNorm(2 * hidden)

    def forward(self, vectors: Tensor, real: Tensor) -> Tensor:
        """States; zeros at padding."""
        # 1. where each step is in the mirrored sequence: the real ones turned round, padding where it was
        time = torch.arange(vectors.shape[1], device=vectors.device)
        mirrored = torch.where(real, real.sum(1, keepdim=True) - 1 - time, time).unsqueeze(-1)
        # 2. both directions, the second turned back
        ahead, _ = self.ahead(vectors)
        back, _ = self.back(vectors.gather(1, mirrored.expand_as(vectors)))
        both = torch.cat([ahead, back.gather(1, mirrored.expand_as(back))], -1)
        # 3. normalised by the moments of real steps
        return spread(self.norm(both[real]), real)


class Attention(nn.Module):
    """Weighted sum over time with weights softmax(v tanh(W x + context)); nothing is summed over padding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer, self.weigh = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)

    def forward(self, states: Tensor, real: Tensor, context: Tensor | float = 0.0) -> Tensor:
        """`[..., time, dim]` to `[..., dim]`."""
        weights = masked_softmax(self.weigh(torch.tanh(self.layer(states) + context)).squeeze(-1), real)
        return (weights.unsqueeze(-2) @ states).squeeze(-2)


class PairMLP(nn.Module):
    """Logits of pairs from `[j; r; j - r]` through one tanh layer.

    It starts as a measure of nearness, units in pairs tanh(1 + u) + tanh(1 - u) of the difference alone.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.ModuleDict({side: RunningNorm(dim) for side in SIDES})
        self.layer, self.drop, self.out = nn.Linear(3 * dim, 2 * dim), nn.Dropout(dropout), nn.Linear(2 * dim, 1)
        with torch.no_grad():
            self.layer.weight *= 0.1
            self.layer.weight[:, 2 * dim :] = 0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)])
            self.layer.bias.fill_(1.0)
            self.out.weight.fill_(4 / dim)
            self.out.bias.fill_(-6.0)

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[n]` of vectors `[n, dim]`."""
        resumes, jobs = self.norm["resume"](resumes), self.norm["job"](jobs)
        hidden = torch.tanh(self.layer(torch.cat([jobs, resumes, jobs - resumes], -1)))
        return self.out(self.drop(hidden)).squeeze(-1)


class ScaledCosine(nn.Module):
    """Logits from the cosine of two vectors, scaled and shifted by two trained numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[n]` of vectors `[n, dim]`."""
        return self.log_scale.exp() * F.cosine_similarity(resumes, jobs, dim=-1) + self.shift


# PJFNN


class SentenceCNN(nn.Module):
    """Vectors of sentences: convolution, ReLU, halving, convolution, maximum over time."""

    def __init__(self, tokens: TokenVectors, channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = TokenConvolution(tokens, channels, widths[0])
        self.second = convolution(channels, channels, widths[1])
        self.norm = nn.BatchNorm1d(channels, momentum=0.3)  # an epoch may be a dozen batches

    def forward(self, ids: Tensor) -> Tensor:
        """Ids `[sentences, tokens]` to vectors `[sentences, channels]`."""
        hidden = F.max_pool1d(self.first(ids).relu().transpose(1, 2), 2, ceil_mode=True)
        return self.norm(self.second(hidden).amax(-1))


class ProductMLP(nn.Module):
    """Logits from a small network on the product of two vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, resumes: Tensor, jobs: Tensor) -> Tensor:
        """Logits `[n]` of vectors `[n, dim]`."""
        return self.layers(resumes * jobs).squeeze(-1)


class PJFNNetwork(Matcher):
    """One sentence CNN a side; the strongest sentence counts of a resume, all sentences of a job."""

    def __init__(self, scoring: Literal["mlp", "distance"] = "distance", dim: int = 64, channels: int = 64) -> None:
        super().__init__()
        self.tokens = TokenVectors(dim)
        widths = {"resume": (5, 3), "job": (5, 5)}
        self.sentences = nn.ModuleDict({side: SentenceCNN(self.tokens, channels, widths[side]) for side in SIDES})
        self.norm = nn.ModuleDict({side: RunningNorm(channels) for side in SIDES})
        self.compare = ScaledCosine() if scoring == "distance" else ProductMLP(channels)

    def encode(self, side: Side, ids: Tensor) -> Encoded:
        """Vectors `[documents, channels]`: the maximum over the sentences of a resume, the mean over those of a job."""
        sentences, real = by_line(self.sentences[side], ids)
        pooled = sentences.amax(1) if side == "resume" else masked_mean(sentences, real, 1)
        return (self.norm[side](pooled),)


@dataclass(eq=False, repr=False)
class PJFNN(PairMatcher):
    """PJFNN (Zhu et al. 2018, arXiv 1810.04040): sentence CNNs, maximum over a resume's sentences, mean over a job's.

    `scoring`: "distance" compares vectors by cosine, as the paper does with its distance (the scale is our
    choice); "mlp" by a network on their product, as RecBole-PJF and the MV-CoN code do. Those two make sentences
    the channels of a convolution that never mixes the dimensions of a word; here, as in the paper, filters run over
    the words of one sentence at a time. Public settings: dim 64, 20 sentences of 30 tokens (RecBole-PJF); dim 100,
    20 of 50, batch 32, rate 3e-4, decay 1e-5, patience 5 (MV-CoN code).
    """

    name, architecture = "PJFNN", PJFNNetwork
    scoring: Literal["mlp", "distance"] = "distance"

    def build(self) -> PJFNNetwork:
        """A network that compares as `scoring` says."""
        return PJFNNetwork(self.scoring)


# BPJFNN


class BPJFNNetwork(Matcher):
    """One BiLSTM over all words of a document; a document is the mean of its states."""

    def __init__(self, dim: int = 64, hidden: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.tokens, self.lstm = TokenVectors(dim), BiLSTM(dim, hidden)
        self.compare = PairMLP(2 * hidden, dropout)

    def encode(self, side: Side, ids: Tensor) -> Encoded:
        """Vectors `[documents, 2 * hidden]`."""
        ids = ids.flatten(1)
        real = ids != PAD
        return (masked_mean(self.lstm(self.tokens(ids), real), real, 1),)


@dataclass(eq=False, repr=False)
class BPJFNN(PairMatcher):
    """BPJFNN, the basic model in Qin et al. 2018 (arXiv 1812.08947): BiLSTM, mean over time, network on [j; r; j - r].

    The mean runs over the words of a text; RecBole-PJF divides their sum by the size of the batch. Both sides share
    the LSTM (our choice: it needs fewer pairs). Public settings: vectors of 128, hidden 32, dropout 0.2, 512 tokens
    (RecBole-PJF); 100, 100 and 256 tokens (MV-CoN code).
    """

    name, architecture, unit = "BPJFNN", BPJFNNetwork, "document"
    config: PairTraining = PairTraining(epochs=2, max_pieces=1, max_tokens=256)


# APJFNN


class APJFNNetwork(Matcher):
    """Two levels of BiLSTMs and four attentions; the resume's two look at the job."""

    def __init__(self, dim: int = 64, hidden: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        states = 2 * hidden
        self.tokens, self.words = TokenVectors(dim), BiLSTM(dim, hidden)
        self.lines = BiLSTM(states, hidden)  # of requirements as of experiences, so that both are comparable
        self.in_requirement, self.over_requirements = Attention(states), Attention(states)
        self.in_experience = nn.Linear(states, states, bias=False)  # bilinear: word state x requirement
        nn.init.eye_(self.in_experience.weight)
        self.over_experiences, self.job_context = Attention(states), nn.Linear(states, states, bias=False)
        self.compare = PairMLP(states, dropout)

    def encode(self, side: Side, ids: Tensor) -> Encoded:
        """A resume as its word states `[documents, lines, tokens, states]`, a job as its requirements and its whole."""
        words, real = by_line(lambda lines: self.words(self.tokens(lines), lines != PAD), ids)
        if side == "resume":
            return words, ids != PAD
        requirements = self.in_requirement(words, ids != PAD)  # [documents, lines, states]
        whole = self.over_requirements(self.lines(requirements, real), real)
        return self.in_experience(requirements) / words.shape[-1] ** 0.5, real, whole

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        real, job = resumes[1].any(-1), jobs[2]
        experiences = self.lines(self.experiences(resumes, jobs), real)
        return self.compare(self.over_experiences(experiences, real, self.job_context(job).unsqueeze(1)), job)

    def experiences(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Each line of a resume as the requirements see it, `[n, lines, states]`."""
        (words, real_words), (requirements, real_requirements, _) = resumes, jobs
        # 1. every requirement attends to the words of every line  [n, requirements, lines, tokens]
        scores = (requirements @ words.flatten(1, 2).transpose(1, 2)).unflatten(2, words.shape[1:3])
        weights = masked_softmax(scores, real_words.unsqueeze(1))
        # 2. the mean over requirements of the weighted sums of words, which is the sum with the mean weights
        mean = masked_mean(weights.flatten(2), real_requirements, 1).unflatten(1, words.shape[1:3])
        return (mean.unsqueeze(2) @ words).squeeze(2)


@dataclass(eq=False, repr=False)
class APJFNN(PairMatcher):
    """APJFNN (Qin et al. 2018, arXiv 1812.08947): BiLSTMs with four ability-aware attentions.

    Words of a requirement are attended to, requirements are read by an LSTM and attended to; words of an experience are
    attended to from each requirement (bilinear, our choice), the mean over requirements is read by an LSTM and attended
    to from the job; a network judges [j; r; j - r]. Each level's size follows from `hidden`; in RecBole-PJF the second
    level expects twice the vectors' size and only runs where both are equal. Public settings: vectors of 128, hidden
    64, dropout 0.2 (RecBole-PJF); 32 and 32, batch 32, rate 3e-4 (MV-CoN code).
    """

    name, architecture = "APJFNN", APJFNNetwork
    config: PairTraining = PairTraining(epochs=2, max_pieces=16, max_tokens=24)


# Siamese


def contrastive_margin(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of `y d² + (1 - y) max(0, margin - d)²`: matches are drawn together, others pushed a margin apart."""
    return (labels * distances**2 + (1 - labels) * (margin - distances).clamp(min=0) ** 2).mean()


class SiameseNetwork(Matcher):
    """Blocks of convolution, pooling and leaky ReLU over the words of a document, a mean, and a linear layer."""

    def __init__(self, dim: int = 64, depth: int = 2, width: int = 5, pool: int = 4, margin: float = 1.0) -> None:
        super().__init__()
        self.margin, self.pool = margin, nn.MaxPool1d(pool, ceil_mode=True)
        self.first = TokenConvolution(TokenVectors(dim), dim, width)
        self.later = nn.ModuleList(convolution(dim, dim, width) for _ in range(depth - 1))
        self.norm, self.top = RunningNorm(dim), nn.Linear(dim, dim)
        nn.init.eye_(self.top.weight)

    def encode(self, side: Side, ids: Tensor) -> Encoded:
        """Unit vectors `[documents, dim]`, by the same network for both sides."""
        ids = ids.flatten(1)
        hidden = F.leaky_relu(self.pool(self.first(ids).transpose(1, 2)))
        real = self.pool((ids != PAD).unsqueeze(1).float())
        for block in self.later:
            hidden, real = F.leaky_relu(self.pool(block(hidden) * real)), self.pool(real)
        vectors = masked_mean(hidden.transpose(1, 2), real.squeeze(1), 1)
        return (F.normalize(self.top(self.norm(vectors)), dim=-1),)

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Minus the Euclidean distance of the two vectors."""
        return -(2 - 2 * (resumes[0] * jobs[0]).sum(-1)).clamp(min=1e-6).sqrt()

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """The contrastive loss with a margin."""
        return contrastive_margin(-self(resumes, jobs), labels, self.margin)


@dataclass(eq=False, repr=False)
class Siamese(PairMatcher):
    """Deep Siamese network (Maheshwary and Misra 2018): twin CNNs with shared weights, contrastive loss on distance.

    Token vectors take the place of the paper's Doc2Vec inputs, vectors have length one, and the margin, which no
    source states, is 1 (our choices). `depth`: blocks of convolution (`width`), maximum over `pool` words and leaky
    ReLU. Published settings: depth 4, width 10, pooling 100, vectors of 256, batch 128, Adam with rate 0.01.
    """

    name, architecture, unit = "Siamese", SiameseNetwork, "document"
    config: PairTraining = PairTraining(max_pieces=1, max_tokens=320)


# GlobalMatch


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


class GlobalMatchNetwork(Matcher):
    """Words to sentences to context, then match vectors of a job's sentences, then one vector of the pair."""

    def __init__(self, dim: int = 64, hidden: int = 32) -> None:
        super().__init__()
        states = 2 * hidden
        # words to sentences, sentences in context, how sentences are compared, one vector of the pair
        self.words, self.over_words = TokenConvolution(TokenVectors(dim), dim, 3), Attention(dim)
        self.context = BiLSTM(dim, hidden)
        self.align = nn.Linear(states, states, bias=False)
        nn.init.eye_(self.align.weight)
        self.from_job, self.from_resume = nn.Linear(states, states), nn.Linear(states, states, bias=False)
        self.from_likeness = nn.Parameter(torch.full((states,), 0.5))
        self.over_matches, self.out = nn.Linear(states, 1, bias=False), nn.Linear(states, 1)
        with torch.no_grad():  # a job's sentence starts by asking for the likest sentences of the resume
            self.from_job.weight *= 0.1
            self.from_resume.weight *= 0.1
            self.out.weight.fill_(4 / states)
            self.out.bias.fill_(-2.0)

    def encode(self, side: Side, ids: Tensor) -> Encoded:
        """Sentences in context `[documents, lines, states]`, and which are real."""
        sentences, real = by_line(lambda lines: self.over_words(self.words(lines).tanh(), lines != PAD), ids)
        return self.context(sentences, real), real

    def match(self, resumes: Encoded, jobs: Encoded) -> tuple[Tensor, Tensor]:
        """How each sentence of a job is met `[n, lines, states]`, and their sum weighted by attention `[n, states]`.

        A sentence is met by tanh(W1 s + W2 a + w3 (s . a)), with `a` the mean of the resume that it attends to.
        """
        # 1. each sentence of the job attends to those of the resume  [n, job's, resume's]
        scores = jobs[0] @ self.align(resumes[0]).transpose(1, 2) / jobs[0].shape[-1] ** 0.5
        weights = masked_softmax(scores, resumes[1].unsqueeze(1))
        attended, likeness = weights @ resumes[0], (weights * scores).sum(-1, keepdim=True)
        matches = torch.tanh(self.from_job(jobs[0]) + self.from_resume(attended) + likeness * self.from_likeness)
        # 2. the pair attends to its matches
        weights = masked_softmax(self.over_matches(matches).squeeze(-1), jobs[1])
        return matches, (weights.unsqueeze(1) @ matches).squeeze(1)

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        return self.out(self.match(resumes, jobs)[1]).squeeze(-1)

    def discrepancies(self, resumes: Encoded, jobs: Encoded, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """MMD between source and target pairs (`target` `[n]`): of sentences, of sentence matches, of whole matches."""

        def between(vectors: Tensor, real: Tensor) -> Tensor:
            """MMD of the real ones among the vectors of many sentences."""
            sides = (vectors[pairs][real[pairs]] for pairs in (~target, target))
            return mmd(*(rows[:: max(1, -(-len(rows) // SAMPLED))] for rows in sides))  # evenly spread

        matches, wholes = self.match(resumes, jobs)
        sentences = (between(*resumes) + between(*jobs)) / 2
        return sentences, between(matches, jobs[1]), mmd(wholes[~target], wholes[target])


@dataclass(eq=False, repr=False)
class GlobalMatch(PairMatcher):
    """Transferable deep global match (Bian et al. 2019, D19-1487): sentence interaction, three levels of adaptation.

    Without `domains` the plain global match. `domains`: the domain of every job, by id or as a column of the jobs;
    jobs of `target_domains` take part in adaptation, while their labels are not used. `adaptation`: weights of the
    discrepancy between source and target at the levels of sentence representation, sentence match and global
    match. No public source gives the equations: the hierarchical encoder (convolution, attention, BiLSTM), the
    match vectors and MMD as the discrepancy are our choices.
    """

    name, architecture = "GlobalMatch", GlobalMatchNetwork
    domains: Mapping[str, str] | str | None = None
    target_domains: Sequence[str] = ()
    adaptation: Sequence[float] = (0.1, 0.1, 0.1)

    def learn(self, corpus: Corpus) -> Self:
        """Train; raises ValueError if `domains` and `target_domains` do not divide the jobs of the corpus."""
        if self.domains is not None:
            names = named_for_jobs(corpus, self.domains, "domains")
            self._target = names.isin(list(self.target_domains)).to_numpy()
            training = self._target[corpus.positions("job", corpus.labelled("train")["job_id"])]
            if not training.any() or training.all():
                what = f"target_domains={list(self.target_domains)} holds {'all' if training.all() else 'none'}"
                raise ValueError(f"{what} of the training pairs: choose some of {sorted(set(names))}")
        return super().learn(corpus)

    def loss(self, batch: pd.DataFrame) -> Tensor:
        """Cross-entropy of source pairs plus the weighted discrepancies."""
        if self.domains is None:
            return super().loss(batch)
        network, (resumes, jobs, labels) = cast(GlobalMatchNetwork, self.network), self.encode_pairs(batch)
        target = torch.from_numpy(self._target[batch["job"]]).to(labels.device)
        fit = F.binary_cross_entropy_with_logits(network(resumes, jobs), labels, reduction="none")
        levels = network.discrepancies(resumes, jobs, target)
        source = (fit * ~target).sum() / (~target).sum().clamp(min=1)
        return source + sum(weight * level for weight, level in zip(self.adaptation, levels, strict=True))


# MV-CoN


def trust(labels: Tensor, other_logits: Tensor, strength: float) -> Tensor:
    """Weights `1 + strength (y - 1) loss_other`, at least 0: a negative that the other view doubts counts less.

    The released code multiplies the label by this weight, not the loss (co_teaching_train.py). That changes nothing:
    the weight of a positive is 1, and the label of a negative stays 0.
    """
    doubt = F.binary_cross_entropy_with_logits(other_logits.detach(), labels, reduction="none")
    return (1 + strength * (labels - 1) * doubt).clamp(min=0)


def relation_vectors(corpus: Corpus, side: Side, hyre: bool, neighbours: int = 10) -> NDArray[np.float32]:
    """Text and neighbourhood of every document of a side, `[documents, 3, 384]`.

    Vectors of the document itself (the mean of its token vectors, length one), the mean over the `neighbours` training
    documents of its side with the highest cosine, and the mean over all documents of the other side that accepted
    these. Messages pass from text alone, so a document without any label has them too; a document is no neighbour of
    itself, so its own labels do not show.
    """
    documents = (texts(corpus, one, hyre=hyre).tolist() for one in (side, other(side)))
    own, opposite = (static_encoder().encode(part, progress=False) for part in documents)
    # 1. the nearest training documents of every document but itself, as edges [documents, documents]
    pool = corpus.positions(side, corpus.pool(side, "train"))
    taken = min(neighbours, len(pool) - 1)
    cosine = own @ own[pool].T
    cosine[pool, np.arange(len(pool))] = -np.inf
    nearest = pool[np.argpartition(-cosine, taken - 1, axis=1)[:, :taken]]
    rows = np.repeat(np.arange(len(own)), taken)
    near = csr_array((np.ones(rows.size, dtype=np.float32), (rows, nearest.ravel())), shape=(len(own),) * 2)
    # 2. who accepted them, once for each neighbour [documents, documents of the other side]
    accepted = corpus.known_positives("train", lists=False).astype(np.float32)
    partners = near @ (accepted if side == "resume" else accepted.T)
    # 3. means over both; a document without such a neighbour or partner gets zeros
    return np.stack([own, normalize(near, "l1") @ own, normalize(partners, "l1") @ opposite], axis=1)


class MVCoNNetwork(Matcher):
    """A text view, PJFNN, beside a relation view, one graph convolution with one matrix a relation."""

    def __init__(self, dim: int = 64, strength: float = 0.2) -> None:
        super().__init__()
        self.text, self.strength = PJFNNetwork("distance", dim, dim), strength
        self.view: Literal["both", "text", "relation"] = "both"  # whose logits rank
        start = self.text.tokens.map.weight.data  # [dim, 384]
        # of a document itself, of its neighbours, of those that accepted these
        self.relations = nn.ModuleDict({side: nn.Linear(3 * start.shape[1], dim) for side in SIDES})
        for relation in self.relations.values():
            relation.get_parameter("weight").data[:, : start.shape[1]] = start
        self.norm = nn.ModuleDict({side: RunningNorm(dim) for side in SIDES})
        self.cosine = ScaledCosine()

    def encode(self, side: Side, ids: Tensor, relations: Tensor) -> Encoded:
        """The vectors of both views."""
        related = torch.tanh(self.relations[side](relations.flatten(1)))
        return *self.text.encode(side, ids), self.norm[side](related)

    def views(self, resumes: Encoded, jobs: Encoded) -> tuple[Tensor, Tensor]:
        """Logits of the text view and of the relation view."""
        return self.text(resumes[:1], jobs[:1]), self.cosine(resumes[1], jobs[1])

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """The mean of both views' logits, or one of them."""
        text, relation = self.views(resumes, jobs)
        return {"both": (text + relation) / 2, "text": text, "relation": relation}[self.view]

    def loss(self, resumes: Encoded, jobs: Encoded, labels: Tensor) -> Tensor:
        """Co-teaching: both views' cross-entropy, each weighted by what the other view thinks of the label."""
        text, relation = self.views(resumes, jobs)
        of_text = F.binary_cross_entropy_with_logits(text, labels, trust(labels, relation, self.strength))
        return of_text + F.binary_cross_entropy_with_logits(relation, labels, trust(labels, text, self.strength))


class MVCoN(PairMatcher):
    """MV-CoN (Bian et al. 2020, arXiv 2009.13299): text view, relation view, and co-teaching that re-weights.

    The text view is PJFNN. The relation view is one graph convolution, one matrix a relation, over fixed text vectors
    (`relation_vectors`); which relations connect documents is our choice, made so that unseen documents have them.
    Of the network, `strength` says how much the other view's doubt takes from a negative (released: 0.2), and `view`
    whose logits rank. The released code trains two PJFNNs on the halves of a batch, without relations, and ranks with
    the second; dim 100, batch 32, rate 3e-4.
    """

    name, architecture = "MV-CoN", MVCoNNetwork

    def inputs(self, corpus: Corpus, side: Side) -> Encoded:
        """Lines and relations."""
        related = relation_vectors(corpus, side, self.config.hyre)
        return *super().inputs(corpus, side), torch.from_numpy(related)


# InEXIT


class InEXITNetwork(Matcher):
    """One transformer layer within documents, the same for both sides, and one across them."""

    def __init__(self, dim: int = 64, heads: int = 4, feedforward: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens, self.norm = TokenVectors(dim), RunningNorm(dim)
        layers = (nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, batch_first=True) for _ in range(2))
        self.internal, self.external = layers
        self.compare = PairMLP(dim, dropout)

    def read(self, ids: Tensor) -> Tensor:
        """A text `[..., tokens]` is the mean of its token vectors `[..., dim]`."""
        return masked_mean(self.tokens(ids), ids != PAD, -2)

    def encode(self, side: Side, values: Tensor, names: Tensor, source: Tensor) -> Encoded:
        """Fields `[documents, fields, dim]` after internal interaction, and which are filled.

        A field is its name plus its value; the name of the side joins after the interaction.
        """
        read, filled = by_line(lambda texts: self.norm(self.read(texts)), values)
        fields = self.internal(self.read(names) + read, src_key_padding_mask=~filled)
        return fields + self.read(source), filled

    def forward(self, resumes: Encoded, jobs: Encoded) -> Tensor:
        """Logits of pairs."""
        # 1. all fields of the pair see each other  [n, fields of both, dim]
        fields, filled = (torch.cat(both, 1) for both in zip(resumes, jobs, strict=True))
        interacted = self.external(fields, src_key_padding_mask=~filled)
        # 2. the means of each document's filled fields  [n, dim] are compared
        people, posts = interacted.split([resumes[0].shape[1], jobs[0].shape[1]], dim=1)
        return self.compare(masked_mean(people, resumes[1], 1), masked_mean(posts, jobs[1], 1))


@dataclass(eq=False, repr=False)
class InEXIT(PairMatcher):
    """InEXIT (Shao et al. 2023): internal interaction of a document's fields, external interaction of a pair's.

    A field is its name plus its value, and its side's name after the internal layer, each a mean of token vectors
    instead of BERT states (our choice, for a laptop). Official settings: bert-base-chinese (768), 8 heads, one layer,
    dropout 0.1, batch 16, rate 5e-6, decay 1e-9, 16 tokens a field and 256 of free text, patience 5.
    """

    name, architecture, unit = "InEXIT", InEXITNetwork, "fields"
    config: PairTraining = PairTraining(max_tokens=256, learning_rate=1e-3)

    def inputs(self, corpus: Corpus, side: Side) -> Encoded:
        """Values of all fields, and the same names and source for every document of the side."""
        values, columns = token_ids(corpus, side, self.unit, self.config)
        tokens = static_encoder().tokenize([name.replace("_", " ") for name in columns] + [side])
        padded = pad_sequence([torch.from_numpy(ids) for ids in tokens], batch_first=True, padding_value=PAD)
        names, source = padded.expand(len(values), -1, -1).split([len(columns), 1], dim=1)
        return values, names, source

    def learn(self, corpus: Corpus) -> Self:
        """Train; raises ValueError for a corpus whose documents are a single field."""
        for side in SIDES:
            if len(corpus.fields(side)) < 2:
                what = f"InEXIT lets the fields of a document interact, and {side}s of corpus {corpus.name!r} have only"
                raise ValueError(f"{what} {corpus.fields(side)}: read them with one column a field")
        return super().learn(corpus)
