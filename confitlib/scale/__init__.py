"""Past one machine and past memory: sharded corpora, engines, exact sharded mining, indexes, cost curves."""

from confitlib.scale.encoding import encode_shards
from confitlib.scale.engine import Engine, LocalEngine, RayEngine
from confitlib.scale.mining import band_on, sharded_band
from confitlib.scale.shards import DocumentShards, VectorShards, known_positives, split_vectors

__all__ = [
    "DocumentShards",
    "Engine",
    "LocalEngine",
    "RayEngine",
    "VectorShards",
    "band_on",
    "encode_shards",
    "known_positives",
    "sharded_band",
    "split_vectors",
]
