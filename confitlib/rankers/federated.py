"""FedPJF: a dual encoder trained by clients that keep their pairs, averaged by a server, with differential privacy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, Corpus, known_positive_mask
from confitlib.encoder import Embeddings, load_encoder
from confitlib.rankers.base import VectorRanker, named_for_jobs
from confitlib.training import contrastive_loss
from confitlib.util import check_range

BATCH_SIZE, RANK, TEMPERATURE = 16, 16, 0.05  # pairs of a local batch; rank of the trained residual map; of the loss
CORRECTION, CORRECTION_TEMPERATURE = 0.1, 0.5  # weight and temperature of the correction
FIRST_CLIP, CLIP_QUANTILE, CLIP_RATE = 0.3, 0.5, 0.2  # the first bound is ours, the others are of Andrew et al.


@dataclass(frozen=True)
class FederatedConfig:
    """Settings of FedPJF; the paper's are not available, so all are our choice.

    `share`: probability that a client joins a round. `noise`: the noise multiplier of the accountant, or None to train
    without privacy; `delta`: of (ε, δ).
    """

    rounds: int = 15
    share: float = 0.5
    local_epochs: int = 2
    learning_rate: float = 2e-3
    noise: float | None = None
    delta: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "rounds", "local_epochs", least=1)
        check_range(self, "learning_rate", above=0)
        check_range(self, "share", "delta", above=0, most=1)
        check_range(self, "seed")
        if self.noise is not None and not 0 < self.noise < np.inf:
            raise ValueError(f"noise={self.noise} gives no privacy: use a positive multiplier, or None to go without")


def adapted(vectors: Tensor, weights: Tensor) -> Tensor:
    """The model that travels: `x + up(down(x))`, `[n, d]`, for both sides; `weights [2, rank, d]` are down and up."""
    return vectors + vectors @ weights[0].T @ weights[1]


@dataclass
class Client:
    """An employer or platform: the accepted pairs of its jobs, as vectors `[pairs, d]`, which never leave it.

    `known[i, j]`: resume i and job j of these pairs are a known match and must not count as a negative.
    `previous`: its weights at the end of the last round it joined.
    """

    resumes: Tensor
    jobs: Tensor
    known: Tensor
    previous: Tensor | None = None

    def fit(self, weights: Tensor, rng: np.random.Generator, config: FederatedConfig) -> tuple[Tensor, float]:
        """Train a copy of the global weights on the client's pairs; returns what changed and the mean loss."""
        local, previous = weights.clone().requires_grad_(), weights if self.previous is None else self.previous
        optimizer, pairs, losses = torch.optim.Adam([local], lr=config.learning_rate), len(self.jobs), []
        for _ in range(config.local_epochs):
            for rows in np.array_split(rng.permutation(pairs), -(-pairs // BATCH_SIZE)):
                batch = torch.from_numpy(rows)
                resumes, jobs = adapted(self.resumes[batch], local), adapted(self.jobs[batch], local)
                # 1. the two-sided contrastive loss, known matches masked  [b, b]
                mask = self.known[batch][:, batch].fill_diagonal_(False)
                loss = contrastive_loss(resumes, jobs, masked_jobs=mask, masked_resumes=mask.T, temperature=TEMPERATURE)
                # 2. the correction of the job vectors by the global model
                anchors = (adapted(self.jobs[batch], anchor) for anchor in (weights, previous))
                loss = loss + CORRECTION * correction(jobs, *anchors)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        self.previous = local.detach()
        return self.previous - weights, float(np.mean(losses))


def correction(local: Tensor, general: Tensor, previous: Tensor) -> Tensor:
    """Each vector `[n, d]` must be nearer to the global model's than to the client's previous one."""
    scores = [F.cosine_similarity(local, anchor, dim=1) / CORRECTION_TEMPERATURE for anchor in (general, previous)]
    return F.cross_entropy(torch.stack(scores, dim=1), torch.zeros(len(local), dtype=torch.long))


def private_mean(
    changes: Sequence[Tensor], shape: torch.Size, expected: float, clip: float, noise: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """The noisy mean of the clipped changes, and the bound on their length for the next round.

    Sums get Gaussian noise of `clip` times the multiplier before they are divided by the `expected` number of clients,
    so a round without any change adds its noise all the same. The bound follows a noisy count of the changes below it,
    whose cost is folded in: a round spends what one Gaussian query of multiplier `noise` spends (Andrew et al.,
    NeurIPS 2021, theorem 1).
    """
    lengths = [float(change.double().norm()) for change in changes]
    # 1. the noise is split between the count of short changes and the sum of all
    on_count = max(expected / 20, noise)  # Andrew et al. use a twentieth of the clients
    on_sum = (noise**-2 - (2 * on_count) ** -2) ** -0.5
    # 2. the noisy sum of the clipped changes
    clipped = [change * min(1.0, clip / (size or 1.0)) for change, size in zip(changes, lengths, strict=True)]
    total = torch.stack([torch.zeros(shape), *clipped]).sum(0) + torch.from_numpy(rng.normal(0, on_sum * clip, shape))
    # 3. the bound moves by the noisy share of short changes
    short = sum((size <= clip) - 0.5 for size in lengths) + rng.normal(0, on_count)
    return (total / expected).float(), clip * math.exp(-CLIP_RATE * (short / expected + 0.5 - CLIP_QUANTILE))


@dataclass(eq=False, repr=False)
class FedPJF(VectorRanker):
    """Federated training over the owners of jobs (Zhang, Liu, Qian 2023), all clients simulated in one process.

    `clients`: a text field of the jobs whose values name the owners (the market's `location`: one platform a city), or
    a mapping from job ids to owners. The local model is a residual map on frozen vectors of `encoder`, small so that
    noise does not drown it. Encoder, equations and ε of the paper are not available: clipping is after Andrew et al.
    2021, the correction a model-contrastive term. The server is trusted with single uploads; what follows from the
    model is private for whole clients. With `noise` it needs opacus, which counts ε by Rényi differential privacy.
    `history`: a row a round; `epsilon`: what was spent at the configured δ, infinite without noise.
    """

    name = "FedPJF"

    clients: str | Mapping[str, str] = "location"
    config: FederatedConfig = FederatedConfig()
    encoder: str = "static"

    def learn(self, corpus: Corpus) -> Self:
        """Run all rounds; the last round's model is kept, for a choice by validation would spend privacy.

        Raises ImportError where `noise` is set and opacus is not installed.
        """
        config, clients = self.config, list(self.local_clients(corpus).values())
        # the map starts as the identity, for up is 0
        self.weights = torch.zeros(2, RANK, clients[0].jobs.shape[1])
        nn.init.kaiming_uniform_(self.weights[0], a=5**0.5, generator=torch.Generator().manual_seed(config.seed))
        if config.noise is not None:
            try:
                from opacus.accountants import RDPAccountant
            except ImportError as error:
                raise ImportError("FedPJF counts privacy with opacus: pip install confitlib[federated]") from error
            accountant = RDPAccountant()
        self.epsilon, clip, rows = np.inf, FIRST_CLIP, []
        for round_ in tqdm(range(config.rounds), desc=f"{self.name}: train", unit="round", delay=2):
            # 1. every client joins with probability `share`, trains, and uploads what changed
            joins = np.random.default_rng((config.seed, 2, round_)).random(len(clients)) < config.share
            joined = np.flatnonzero(joins).tolist()
            rngs = [np.random.default_rng((config.seed, 1, round_, number)) for number in joined]
            uploads = [clients[number].fit(self.weights, rng, config) for number, rng in zip(joined, rngs, strict=True)]
            changes, bound = [change for change, _ in uploads], clip
            # 2. the server adds their mean: private, or weighted by pairs (McMahan et al. 2017)
            if config.noise is not None:
                rng, expected = np.random.default_rng((config.seed, 3, round_)), config.share * len(clients)
                mean, clip = private_mean(changes, self.weights.shape, expected, clip, config.noise, rng)
                self.weights = self.weights + mean
                accountant.step(noise_multiplier=config.noise, sample_rate=config.share)
                self.epsilon = float(accountant.get_epsilon(config.delta))
            elif joined:
                pairs = torch.tensor([len(clients[number].jobs) for number in joined])
                self.weights = self.weights + torch.einsum("c,cmrd->mrd", pairs / pairs.sum(), torch.stack(changes))
            loss = float(np.mean([loss for _, loss in uploads])) if uploads else np.nan
            rows.append((round_ + 1, len(joined), loss, bound, self.epsilon))
        self.history = pd.DataFrame(rows, columns=["round", "clients", "loss", "clip", "epsilon"])
        self.n_parameters = self.weights.numel()
        return self

    def local_clients(self, corpus: Corpus) -> dict[str, Client]:
        """Every owner of an accepted training pair; raises ValueError without two, or for a job without an owner."""
        # 1. the owner of every accepted training pair
        table = corpus.labelled("train", 1)
        owners = table["job_id"].map(named_for_jobs(corpus, self.clients, "clients"))
        if owners.nunique() < 2:
            what = f"corpus {corpus.name!r} has accepted training pairs of {owners.nunique()} clients"
            raise ValueError(f"{what}: federated training needs two; pass another column or a mapping of job ids")
        # 2. the vectors of each owner's pairs, and which resumes match which jobs among them
        vectors, known = Embeddings.of_corpus(load_encoder(self.encoder), corpus), known_positive_mask(corpus, "job")
        clients = {}
        for name, places in sorted(owners.groupby(owners).indices.items()):
            rows = {side: corpus.positions(side, table[f"{side}_id"].iloc[places]) for side in SIDES}
            matches = torch.from_numpy(known[rows["resume"]][:, rows["job"]].toarray() > 0)
            resumes, jobs = (torch.from_numpy(vectors.of(side)[rows[side]]) for side in SIDES)
            clients[str(name)] = Client(resumes, jobs, matches)
        return clients

    def prepare(self, corpus: Corpus) -> None:
        """Vectors of every document."""
        vectors = Embeddings.of_corpus(load_encoder(self.encoder), corpus)
        with torch.inference_mode():
            mapped = (adapted(torch.from_numpy(vectors.of(side)), self.weights) for side in SIDES)
            self.embeddings = Embeddings(*(F.normalize(one, dim=1).numpy() for one in mapped))
