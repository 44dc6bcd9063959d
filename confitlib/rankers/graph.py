"""DPGNN: two nodes a document, active and passive, on the graph of who applied where and who was accepted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confitlib.corpus import SIDES, Corpus, Side, known_positive_mask
from confitlib.encoder import load_encoder
from confitlib.rankers.base import Ranker, Scores, trained_weights
from confitlib.rankers.pair_training import PairTraining, fit_network, judged_pairs, redraw
from confitlib.text import texts
from confitlib.training import info_nce
from confitlib.util import check_range

DRAWS = 8  # so that a negative is a known positive only where nearly all documents are
Views = dict[Side, Tensor]  # vectors of the nodes of a side `[2, n, d]`, active and passive
Ends = dict[Side, Tensor]  # the documents of pairs, as places among the nodes of their side


class Nodes(NamedTuple):
    """Documents of a graph: text vectors `[n, width]`, rows of their free vectors (-1: none), propagation matrix."""

    text: dict[Side, Tensor]
    places: dict[Side, Tensor]
    graph: Tensor


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
    """Vectors of active and passive nodes: free ones of the documents seen in training beside projected texts."""

    def __init__(self, seen: dict[Side, pd.Index], text_width: int, config: GraphConfig) -> None:
        super().__init__()
        self.layers = config.layers
        self.free = nn.ParameterDict({side: torch.empty(2, len(seen[side]), config.dim) for side in SIDES})
        self.text = nn.Parameter(torch.empty(2, config.text_dim, text_width))
        for table in (*self.free.values(), self.text):
            nn.init.normal_(table, std=0.1)

    def forward(self, nodes: Nodes) -> tuple[Views, Views]:
        """Vectors `[2, n, dim + text_dim]` a side, before and after propagation."""
        initial = {}
        for side in SIDES:
            free = F.pad(self.free[side], (0, 0, 0, 1))[:, nodes.places[side]]  # the last row is of zeros, at -1
            initial[side] = torch.cat([free, torch.einsum("vdw,nw->vnd", self.text, nodes.text[side])], -1)
        return initial, propagate(initial, nodes.graph, self.layers)


@dataclass(eq=False, repr=False)
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
    config: GraphConfig = GraphConfig()
    encoder: str = "static"

    def learn(self, corpus: Corpus) -> Self:
        """Train on the accepted training pairs; raises ValueError without any."""
        config, labels, rng = self.config, corpus.labelled("train"), np.random.default_rng(self.config.seed)
        # 1. the graph of the documents that training sees, and its pairs as places in the corpus
        pairs, known = judged_pairs(corpus, "train", 1), known_positive_mask(corpus, "job")
        self.seen = {side: pd.Index(labels[f"{side}_id"].unique()) for side in SIDES}
        nodes = self._nodes(corpus, self.seen)
        pools = {side: corpus.positions(side, self.seen[side]) for side in SIDES}
        node = {side: self.seen[side].get_indexer(corpus.documents(side).index) for side in SIDES}

        # 2. the batches of an epoch
        def epoch(_: object) -> Iterator[list[Ends]]:
            """Nodes of pairs, and for each the first resume and the first job drawn that is no known positive."""
            order = rng.permutation(len(pairs))
            for start in range(0, len(order), config.batch_size):
                batch = pairs.iloc[order[start : start + config.batch_size]]
                others, first = {}, np.arange(len(batch)) * DRAWS
                for side in SIDES:
                    drawn = redraw(batch, side, pools[side], DRAWS, known, rng)
                    free = drawn["label"].to_numpy().reshape(-1, DRAWS).argmin(1)
                    others[side] = drawn[side].to_numpy()[first + free]
                yield [{side: torch.from_numpy(node[side][rows[side]]) for side in SIDES} for rows in (batch, others)]

        # 3. the vectors of the nodes
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.network = GraphNetwork(self.seen, nodes.text["resume"].shape[1], config)
            training = PairTraining(config.epochs, config.batch_size, config.learning_rate, 0.0, seed=config.seed)
            self.history = fit_network(self.network, training, partial(self._loss, nodes), epoch, name=self.name)
        self.n_parameters = trained_weights(self.network)
        return self

    def _nodes(self, corpus: Corpus, ids: dict[Side, pd.Index]) -> Nodes:
        """The graph of these documents."""
        encoder = load_encoder(self.encoder)
        documents = {side: texts(corpus, side).loc[ids[side]].tolist() for side in SIDES}
        text = {side: torch.from_numpy(encoder.encode(documents[side], progress=False)) for side in SIDES}
        places = {side: torch.from_numpy(self.seen[side].get_indexer(ids[side])) for side in SIDES}
        return Nodes(text, places, propagation_matrix(corpus.labelled("train"), ids))

    def _loss(self, nodes: Nodes, batch: list[Ends]) -> Tensor:
        """Quadruple BPR, InfoNCE between the views of the batch's documents, and the size of its vectors."""
        initial, views = self.network(nodes)
        loss = quadruple_bpr(*(views[side][:, ends[side]] for ends in batch for side in SIDES))
        for side in SIDES:
            active, passive = F.normalize(views[side][:, batch[0][side].unique()], dim=-1)
            loss = loss + self.config.contrast * info_nce(active, passive, self.config.temperature)
        sizes = sum(initial[side][:, ends[side]].square().sum() for ends in batch for side in SIDES)
        return loss + self.config.reg * sizes / len(batch[0]["job"])

    def prepare(self, corpus: Corpus) -> None:
        """Propagate over the training edges among the documents of this corpus."""
        # 1. the vectors of all documents
        nodes = self._nodes(corpus, {side: corpus.documents(side).index for side in SIDES})
        with torch.no_grad():
            _, self._views = self.network(nodes)
        # 2. unseen documents borrow the mean free part of their nearest seen documents by text
        for side in SIDES:
            seen, count, dim = nodes.places[side] >= 0, self.config.neighbours, self.config.dim
            if count and dim and seen.any() and not seen.all():
                likeness = nodes.text[side][~seen] @ nodes.text[side][seen].T
                nearest = likeness.topk(min(count, likeness.shape[1])).indices
                views = self._views[side][..., :dim]
                views[:, ~seen] = views[:, seen][:, nearest].mean(2)

    def score(self, resume_ids: Iterable[str], job_ids: Iterable[str], target: Side = "resume") -> Scores:
        """Mutual interest of every pair."""
        rows = self.rows(resume_ids, job_ids)
        resumes, jobs = (self._views[side][:, rows[side]] for side in SIDES)
        return (resumes[0] @ jobs[1].T + resumes[1] @ jobs[0].T).numpy()


def propagation_matrix(labels: pd.DataFrame, ids: dict[Side, pd.Index]) -> Tensor:
    """The normalised adjacency `D^-1/2 A D^-1/2` of all nodes, sparse: active and passive resumes, then jobs.

    An acceptance gives edges from resume-active to job-passive and from resume-passive to job-active, a rejection the
    first of these, and every document links its own two nodes.
    """
    n, m = (len(ids[side]) for side in SIDES)
    resumes, jobs = (ids[side].get_indexer(pd.Index(labels[f"{side}_id"])) for side in SIDES)
    accepted = (labels["label"] == 1).to_numpy()
    # 1. edges in one direction: active to passive, who applied, who was accepted
    first = np.concatenate([np.arange(n), 2 * n + np.arange(m), resumes, n + resumes[accepted]])
    second = np.concatenate([n + np.arange(n), 2 * n + m + np.arange(m), 2 * n + m + jobs, 2 * n + jobs[accepted]])
    # 2. both directions, each weighted by the degrees of its ends
    edges = torch.from_numpy(np.block([[first, second], [second, first]]))  # [2, edges]
    degree, size = torch.bincount(edges[0], minlength=2 * (n + m)).float(), 2 * (n + m)
    weights = degree[edges].prod(0).rsqrt()
    return torch.sparse_coo_tensor(edges, weights, (size, size), check_invariants=True).coalesce()


def propagate(initial: Views, graph: Tensor, layers: int) -> Views:
    """LightGCN: the mean of the initial vectors `[2, n, d]` a side and of `layers` steps over the graph."""
    step = torch.cat([initial[side].flatten(0, 1) for side in SIDES])
    total = step
    for _ in range(layers):
        step = torch.sparse.mm(graph, step)
        total = total + step
    resumes, jobs = (total / (layers + 1)).split([2 * initial[side].shape[1] for side in SIDES])
    return {"resume": resumes.unflatten(0, (2, -1)), "job": jobs.unflatten(0, (2, -1))}


def quadruple_bpr(resumes: Tensor, jobs: Tensor, other_resumes: Tensor, other_jobs: Tensor) -> Tensor:
    """The loss `-log σ(2 r⁺ + 2 s⁺ - (r₁⁻ + s₁⁻ + r₂⁻ + s₂⁻))` of views `[2, n, d]`, averaged over pairs.

    r = resume_active · job_passive and s = resume_passive · job_active; the negatives replace the job (1) and the
    resume (2). Source: Yang et al. 2022, RUCAIBox/DPGNN.
    """

    def mutual(ours: Tensor, theirs: Tensor) -> Tensor:
        """r + s of each pair, `[n]`."""
        return (ours * theirs.flip(0)).sum((0, 2))

    return -F.logsigmoid(2 * mutual(resumes, jobs) - mutual(resumes, other_jobs) - mutual(other_resumes, jobs)).mean()
