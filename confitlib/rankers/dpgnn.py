"""DPGNN: two nodes a document, active and passive, on the graph of who applied where and who was accepted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn
from tqdm.auto import tqdm

from confitlib.corpus import SIDES, Corpus, Side, known_positive_mask
from confitlib.encoder import load_encoder
from confitlib.mining.strategies import codes_at
from confitlib.rankers.base import Ranker, Scores, trained_weights
from confitlib.rankers.sampling import Rows
from confitlib.text import texts
from confitlib.training import info_nce
from confitlib.util import check_range

WEIGHTS, NODES = "graph.safetensors", "nodes.parquet"
DRAWS = 8  # so that a negative is a known positive only where nearly all documents are
Views = tuple[Tensor, Tensor]  # of the documents of a side: active `[n, d]` and passive `[n, d]`


@dataclass(frozen=True)
class GraphConfig:
    """Settings of DPGNN; official values in brackets (RUCAIBox/DPGNN), the others are our choice.

    `dim`: free vectors of a node [128], 0 for none; `text_dim`: projected text vectors beside them [32], 0 for none;
    `layers`: steps of propagation [3]. `contrast`, `temperature`: weight and temperature of InfoNCE between the two
    views [0.05, 0.2]. `reg`: weight of the squared vectors of a batch [1e-5]. `neighbours`: seen documents that lend an
    unseen one their free part, 0 for none.
    """

    dim: int = 64
    text_dim: int = 32
    layers: int = 3
    epochs: int = 60
    batch_size: int = 512
    learning_rate: float = 7e-3
    reg: float = 1e-5
    contrast: float = 0.05
    temperature: float = 0.2
    neighbours: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim + self.text_dim < 1:
            raise ValueError("dim=0 and text_dim=0 leave a node without a vector: give it one of them")
        check_range(self, "epochs", "batch_size", least=1)
        check_range(self, "learning_rate", "temperature", above=0)
        check_range(self, "dim", "text_dim", "layers", "reg", "contrast", "neighbours", "seed")


class GraphNetwork(nn.Module):
    """Initial vectors of the nodes, active then passive: free ones of known documents, and projected texts."""

    def __init__(self, known: dict[Side, int], text_width: int, config: GraphConfig) -> None:
        super().__init__()
        self.free = nn.ParameterDict({side: nn.Parameter(torch.empty(2, known[side], config.dim)) for side in SIDES})
        self.text = nn.Parameter(torch.empty(2, config.text_dim, text_width))
        for table in (*self.free.values(), self.text):
            nn.init.normal_(table, std=0.1)

    def forward(self, text: dict[Side, Tensor], known: dict[Side, Tensor]) -> dict[Side, Tensor]:
        """`[2, n, dim + text_dim]` a side; `known[side]` is the row of each document's free vectors, -1 for none."""
        projected = {side: torch.einsum("vdw,nw->vnd", self.text, text[side]) for side in SIDES}
        return {side: torch.cat([_rows(self.free[side], known[side]), projected[side]], -1) for side in SIDES}


class DPGNN(Ranker):
    """Dual-perspective graph network (Yang et al., RecSys 2022): what each side wants, and how each side is wanted.

    Acceptances link active and passive nodes both ways, applications that were rejected link the resume's active
    node to the job's passive one, and every document's two nodes are linked. Scores are
    `resume_active · job_passive + resume_passive · job_active` after the propagation.

    Unseen documents have no edge and no free vector. They keep the projection of their own text, passed over their
    self link, and borrow the free part of their nearest seen documents by text (`neighbours`); with
    `text_dim=0, neighbours=0` nothing is known of them and they all score 0. `GraphConfig(dim=0, layers=0)` is the
    text-only variant of the ConFit authors, who had no graph because it "requires knowing ALL resume and jobs in
    advance", here with linear maps of frozen text vectors.
    """

    name = "DPGNN"

    def __init__(self, config: GraphConfig = GraphConfig(), encoder: str = "static") -> None:
        self.config, self.encoder = config, encoder

    def learn(self, corpus: Corpus) -> Self:
        """Train on the accepted training pairs; raises ValueError without any."""
        table = corpus.labelled("train", 1)
        if table.empty:
            raise ValueError(f"corpus {corpus.name!r} has no accepted training pair: there is no graph to learn from")
        seen = _in_training(corpus)
        pairs = {side: seen.positions(side, table[f"{side}_id"]) for side in SIDES}
        self.known = {side: seen.documents(side).index for side in SIDES}
        self._prepare(seen)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self.network = GraphNetwork(self._sizes(), self._text["resume"].shape[1], self.config)
            self._train(pairs, seen)
        return self

    def _sizes(self) -> dict[Side, int]:
        return {side: len(self.known[side]) for side in SIDES}

    def _prepare(self, corpus: Corpus) -> None:
        """Text vectors, the graph, and where the known documents are."""
        encoder = load_encoder(self.encoder)
        vectors = {side: encoder.encode(texts(corpus, side).tolist(), progress=False) for side in SIDES}
        self._text = {side: torch.from_numpy(vectors[side]) for side in SIDES}
        self._places = {
            side: torch.from_numpy(self.known[side].get_indexer(corpus.documents(side).index)) for side in SIDES
        }
        self._graph = propagation_matrix(corpus)

    def _train(self, pairs: dict[Side, Rows], corpus: Corpus) -> None:
        config, rng = self.config, np.random.default_rng(self.config.seed)
        known, losses = known_positive_mask(corpus, "job"), []
        pools = {side: np.arange(len(self.known[side])) for side in SIDES}
        optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        bar = tqdm(range(config.epochs), desc=f"{self.name}: train", unit="epoch", delay=2)
        for epoch in bar:
            order, total = rng.permutation(len(pairs["job"])), 0.0
            for start in range(0, len(order), config.batch_size):
                chosen = order[start : start + config.batch_size]
                batch = {side: pairs[side][chosen] for side in SIDES}
                negatives = {side: _replaced(batch, side, pools[side], known, rng) for side in SIDES}
                optimizer.zero_grad()
                loss = self._loss(batch, negatives)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(chosen) / len(order)
            losses.append({"epoch": epoch + 1, "loss": total})
        self.history = pd.DataFrame(losses)

    def _loss(self, batch: dict[Side, Rows], negatives: dict[Side, Rows]) -> Tensor:
        """Quadruple BPR, InfoNCE between the views of the batch's documents, and the size of its vectors."""
        initial = self.network(self._text, self._places)
        views = propagate(initial, self._graph, self.config.layers)
        resumes, jobs = (_at(views[side], batch[side]) for side in SIDES)
        other_resumes, other_jobs = (_at(views[side], negatives[side]) for side in SIDES)
        loss = quadruple_bpr(resumes, jobs, other_resumes, other_jobs)
        for side in SIDES:
            active, passive = _at(views[side], np.unique(batch[side]))
            loss = loss + self.config.contrast * _contrast(active, passive, self.config.temperature)
        used = [initial[side][:, torch.from_numpy(rows[side])] for rows in (batch, negatives) for side in SIDES]
        return loss + self.config.reg * sum(part.square().sum() for part in used) / len(batch["job"])

    def index(self, corpus: Corpus) -> Self:
        """Propagate over the training edges among the documents of this corpus."""
        self.corpus = corpus
        self._prepare(corpus)
        with torch.inference_mode():
            views = propagate(self.network(self._text, self._places), self._graph, self.config.layers)
            self._views = {side: self._with_borrowed(side, views[side]) for side in SIDES}
        return self

    def _with_borrowed(self, side: Side, views: Views) -> Views:
        """Unseen documents take the mean free part of their nearest seen documents by text."""
        seen, count, dim = self._places[side] >= 0, self.config.neighbours, self.config.dim
        if not (count and dim and seen.any() and not seen.all()):
            return views
        likeness = self._text[side][~seen] @ self._text[side][seen].T
        nearest = likeness.topk(min(count, likeness.shape[1])).indices
        for view in views:
            view[~seen, :dim] = view[seen, :dim][nearest].mean(1)
        return views

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Mutual interest of every pair."""
        rows = self.rows(resume_ids, job_ids)
        resumes, jobs = (_at(self._views[side], rows[side]) for side in SIDES)
        return (resumes[0] @ jobs[1].T + resumes[1] @ jobs[0].T).numpy()

    @property
    def n_parameters(self) -> int:
        """Free vectors of the known documents and the projections of their texts."""
        return trained_weights(self.network)


def propagation_matrix(corpus: Corpus) -> Tensor:
    """The normalised adjacency `D^-1/2 A D^-1/2` of all nodes, sparse: active and passive resumes, then jobs.

    Edges come from training labels alone: an acceptance gives resume-active to job-passive and resume-passive to
    job-active, a rejection the first of these, and every document links its own two nodes.
    """
    n, m = len(corpus.resumes), len(corpus.jobs)
    table = corpus.labelled("train")
    resumes, jobs = (corpus.positions(side, table[f"{side}_id"]) for side in SIDES)
    accepted = (table["label"] == 1).to_numpy()
    own = [(np.arange(n), np.arange(n) + n), (2 * n + np.arange(m), 2 * n + m + np.arange(m))]
    applied = (resumes, 2 * n + m + jobs)
    invited = (n + resumes[accepted], 2 * n + jobs[accepted])
    first, second = (np.concatenate(ends) for ends in zip(*own, applied, invited, strict=True))
    rows, columns = torch.from_numpy(np.stack([np.r_[first, second], np.r_[second, first]]).astype(np.int64))
    degree = torch.bincount(rows, minlength=2 * (n + m)).float()
    weights = (degree[rows] * degree[columns]).rsqrt()
    places, size = torch.stack([rows, columns]), 2 * (n + m)
    return torch.sparse_coo_tensor(places, weights, (size, size), check_invariants=True).coalesce()


def propagate(initial: dict[Side, Tensor], graph: Tensor, layers: int) -> dict[Side, Views]:
    """LightGCN: the mean of the initial vectors `[2, n, d]` a side and of `layers` steps over the graph."""
    sizes = {side: initial[side].shape[1] for side in SIDES}
    step = torch.cat([initial[side].flatten(0, 1) for side in SIDES])
    total = step
    for _ in range(layers):
        step = torch.sparse.mm(graph, step)
        total = total + step
    resumes, jobs = (total / (layers + 1)).split([2 * sizes["resume"], 2 * sizes["job"]])
    return {"resume": resumes.tensor_split(2), "job": jobs.tensor_split(2)}


def quadruple_bpr(resumes: Views, jobs: Views, other_resumes: Views, other_jobs: Views) -> Tensor:
    """The loss `-log σ(2 r⁺ + 2 s⁺ - (r₁⁻ + s₁⁻ + r₂⁻ + s₂⁻))`, averaged over pairs.

    r = resume_active · job_passive and s = resume_passive · job_active; the negatives replace the job (1) and the
    resume (2). Source: Yang et al. 2022, RUCAIBox/DPGNN.
    """
    margin = 2 * _mutual(resumes, jobs) - _mutual(resumes, other_jobs) - _mutual(other_resumes, jobs)
    return -F.logsigmoid(margin).mean()


def _mutual(resumes: Views, jobs: Views) -> Tensor:
    return (resumes[0] * jobs[1]).sum(-1) + (resumes[1] * jobs[0]).sum(-1)


def _contrast(active: Tensor, passive: Tensor, temperature: float) -> Tensor:
    return info_nce(F.normalize(active, dim=-1), F.normalize(passive, dim=-1), temperature)


def _rows(table: Tensor, places: Tensor) -> Tensor:
    """Rows `[2, n, d]` of a table; zeros where the place is -1."""
    padded = torch.cat([table, table.new_zeros(2, 1, table.shape[2])], dim=1)
    return padded[:, places]


def _at(views: Views, rows: Rows) -> Views:
    places = torch.from_numpy(rows)
    return views[0][places], views[1][places]


def _in_training(corpus: Corpus) -> Corpus:
    """The corpus cut down to training labels and their documents: no other one has an edge to learn from."""
    table = corpus.labelled("train")
    resumes, jobs = (corpus.documents(side).loc[table[f"{side}_id"].unique()] for side in SIDES)
    return replace(corpus, resumes=resumes, jobs=jobs, labels=table, rankings=corpus.rankings.iloc[:0], truth=None)


def _replaced(batch: dict[Side, Rows], side: Side, pool: Rows, known: csr_array, rng: np.random.Generator) -> Rows:
    """A drawn document of a side for every pair: the first of `DRAWS` that is no known positive."""
    drawn = rng.choice(pool, (len(batch[side]), DRAWS))
    kept = {one: np.repeat(batch[one], DRAWS) for one in SIDES}
    ends = {**kept, side: drawn.ravel()}
    clash = codes_at(known, ends["resume"], ends["job"]).reshape(drawn.shape) > 0
    return drawn[np.arange(len(drawn)), clash.argmin(axis=1)]
