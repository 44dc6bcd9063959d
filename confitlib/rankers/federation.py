"""Federated training as its clients and its server see it, whatever carries their uploads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from confitlib.training import contrastive_loss
from confitlib.util import check_range

Weights = list[NDArray[np.float32]]


@dataclass(frozen=True)
class FederatedConfig:
    """Settings of FedPJF; the paper's are not available, so all are our choice.

    `share`: probability that a client joins a round. `rank`: of the trained residual map. `correction`: weight of the
    contrastive term that holds a client's job vectors near the global model's and away from its own last ones.
    `noise`: the noise multiplier of the accountant, or None to train without privacy; `delta`: of (ε, δ). `clip`:
    first bound on the length of an upload; it follows the `clip_quantile` of the lengths at `clip_rate`.
    """

    rounds: int = 15
    share: float = 0.5
    local_epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 2e-3
    rank: int = 16
    temperature: float = 0.05
    correction: float = 0.1
    correction_temperature: float = 0.5
    noise: float | None = None
    delta: float = 1e-5
    clip: float = 0.3
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "rounds", "local_epochs", "batch_size", "rank", least=1)
        check_range(self, "learning_rate", "temperature", "correction_temperature", "clip", above=0)
        check_range(self, "share", "delta", above=0, most=1)
        check_range(self, "clip_quantile", most=1)
        check_range(self, "correction", "clip_rate", "seed")
        if self.noise is not None and not 0 < self.noise < np.inf:
            raise ValueError(f"noise={self.noise} gives no privacy: use a positive multiplier, or None to go without")


class Adapter(nn.Module):
    """The model that travels: `x + up(down(x))`, the identity at first, for both sides."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors `[n, dim]`, un-normalised."""
        return vectors + self.up(self.down(vectors))

    def weights(self) -> Weights:
        """Copies of the parameters."""
        return [parameter.detach().numpy().copy() for parameter in self.parameters()]

    def put(self, weights: Weights) -> Self:
        """Take over parameters."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        return self


@dataclass(frozen=True)
class Upload:
    """What leaves a client: how its weights changed (clipped under privacy), pairs, loss, and whether it was short."""

    client: str
    delta: Weights
    pairs: int
    loss: float
    unclipped: bool


class LocalClient:
    """An employer or platform: the accepted pairs of its jobs, as vectors `[pairs, d]`, which never leave it.

    `known[i, j]`: resume i and job j of these pairs are a known match and must not count as a negative.
    """

    def __init__(
        self, name: str, number: int, resumes: Tensor, jobs: Tensor, known: NDArray[np.bool_], config: FederatedConfig
    ) -> None:
        self.name, self.number, self.config = name, number, config
        self.vectors, self.known = (resumes, jobs), torch.from_numpy(known)
        self.previous: Weights | None = None

    def __len__(self) -> int:
        return len(self.known)

    def fit(self, weights: Weights, round_: int, clip: float) -> Upload:
        """Train a copy of the global model on the own pairs and return the change."""
        config, rng = self.config, np.random.default_rng((self.config.seed, 1, round_, self.number))
        models = [self._model(value) for value in (weights, weights, self.previous or weights)]
        optimizer = torch.optim.Adam(models[0].parameters(), lr=config.learning_rate)
        losses = []
        for _ in range(config.local_epochs):
            for rows in np.array_split(rng.permutation(len(self)), -(-len(self) // config.batch_size)):
                optimizer.zero_grad()
                loss = self._loss(models, torch.from_numpy(rows))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        self.previous = models[0].weights()
        delta = [new - old for new, old in zip(self.previous, weights, strict=True)]
        unclipped = length(delta) <= clip
        kept = delta if config.noise is None else clipped(delta, clip)
        return Upload(self.name, kept, len(self), float(np.mean(losses)), unclipped)

    def _model(self, weights: Weights) -> Adapter:
        return Adapter(self.vectors[0].shape[1], self.config.rank).put(weights)

    def _loss(self, models: Sequence[Adapter], rows: Tensor) -> Tensor:
        """The two-sided contrastive loss, and the correction of the job vectors."""
        local, general, previous = models
        resumes, jobs = (vectors[rows] for vectors in self.vectors)
        masked = self.known[rows][:, rows].fill_diagonal_(False)
        own = local(jobs)
        temperature = self.config.temperature
        loss = contrastive_loss(
            local(resumes), own, masked_jobs=masked, masked_resumes=masked.T, temperature=temperature
        )
        with torch.no_grad():
            anchors = general(jobs), previous(jobs)
        return loss + self.config.correction * correction(own, *anchors, self.config.correction_temperature)


class Server:
    """Draws the clients of a round, averages what they upload, adds noise and keeps the account of it.

    With `noise`, sums of clipped uploads get Gaussian noise of `clip` times the multiplier before they are divided by
    the expected number of clients. The clip follows a noisy count of short uploads, whose cost is folded in, so that
    a round spends what one Gaussian query of multiplier `noise` over clients drawn with probability `share` spends
    (Andrew et al., NeurIPS 2021, theorem 1). The server is trusted with single uploads; what follows from the model
    is private for whole clients. Needs opacus, which counts ε by Rényi differential privacy.
    """

    def __init__(self, clients: Sequence[str], weights: Weights, config: FederatedConfig) -> None:
        self.clients, self.weights, self.config, self.clip = sorted(clients), weights, config, config.clip
        self.accountant = None if config.noise is None else rdp_accountant()
        self.history: list[dict[str, float]] = []

    @property
    def expected(self) -> float:
        """Mean number of clients in a round."""
        return self.config.share * len(self.clients)

    @property
    def epsilon(self) -> float:
        """ε spent so far at the configured δ; infinite without noise."""
        return np.inf if self.accountant is None else float(self.accountant.get_epsilon(self.config.delta))

    def draw(self, round_: int) -> list[str]:
        """Clients of a round, each with probability `share`."""
        joins = np.random.default_rng((self.config.seed, 2, round_)).random(len(self.clients)) < self.config.share
        return [name for name, joined in zip(self.clients, joins, strict=True) if joined]

    def step(self, round_: int, uploads: Sequence[Upload]) -> None:
        """Finish a round; under privacy one without any upload adds its noise all the same."""
        uploads = sorted(uploads, key=lambda upload: upload.client)
        clip = self.clip
        if self.config.noise is not None:
            change = self._private_mean(round_, uploads, self.config.noise)
        else:
            change = average([upload.delta for upload in uploads], [upload.pairs for upload in uploads])
        if change:
            self.weights = [old + new for old, new in zip(self.weights, change, strict=True)]
        loss = float(np.mean([upload.loss for upload in uploads])) if uploads else np.nan
        row = {"round": round_ + 1, "clients": len(uploads), "loss": loss, "clip": clip, "epsilon": self.epsilon}
        self.history.append(row)

    def _private_mean(self, round_: int, uploads: Sequence[Upload], noise: float) -> Weights:
        rng = np.random.default_rng((self.config.seed, 3, round_))
        on_count = max(self.expected / 20, noise)  # Andrew et al. use a twentieth of the clients
        on_weights = (noise**-2 - (2 * on_count) ** -2) ** -0.5
        sums = [np.zeros_like(part) for part in self.weights]
        for upload in uploads:
            sums = [total + part for total, part in zip(sums, upload.delta, strict=True)]
        noisy = [total + rng.normal(0, on_weights * self.clip, total.shape) for total in sums]
        count = sum(upload.unclipped - 0.5 for upload in uploads) + rng.normal(0, on_count)
        short = count / self.expected + 0.5
        self.clip *= float(np.exp(-self.config.clip_rate * (short - self.config.clip_quantile)))
        if self.accountant is not None:
            self.accountant.step(noise_multiplier=noise, sample_rate=self.config.share)
        return [(part / self.expected).astype(np.float32) for part in noisy]


def average(changes: Sequence[Weights], sizes: Sequence[int]) -> Weights:
    """The mean of the clients' weights, each weighted by its number of pairs (McMahan et al. 2017); [] of none."""
    total = sum(sizes)
    return [
        np.sum([size / total * part for size, part in zip(sizes, parts, strict=True)], axis=0, dtype=np.float32)
        for parts in zip(*changes, strict=True)
    ]


def correction(local: Tensor, general: Tensor, previous: Tensor, temperature: float) -> Tensor:
    """Each vector `[n, d]` must be nearer to the global model's than to the client's previous one."""
    scores = [F.cosine_similarity(local, anchor, dim=1) / temperature for anchor in (general, previous)]
    return F.cross_entropy(torch.stack(scores, dim=1), torch.zeros(len(local), dtype=torch.long))


def length(weights: Weights) -> float:
    """Euclidean length of all weights together."""
    return float(np.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in weights)))


def clipped(weights: Weights, bound: float) -> Weights:
    """The weights scaled down to at most this length."""
    factor = np.float32(min(1.0, bound / (length(weights) or 1.0)))
    return [part * factor for part in weights]


def rdp_accountant() -> Any:
    """Opacus' accountant by Rényi differential privacy; raises ImportError with the remedy."""
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise ImportError(
            "differential privacy is accounted for by opacus: pip install confitlib[federated]"
        ) from error
    return RDPAccountant()
