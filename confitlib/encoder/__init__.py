"""Text encoders of Sentence-Transformers modules, and the vectors that they give to a corpus."""

from confitlib.encoder.loading import load_encoder
from confitlib.encoder.model import Pooling, TextEncoder, TokenAverage
from confitlib.encoder.vectors import Embeddings
