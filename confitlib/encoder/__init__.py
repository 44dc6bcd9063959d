"""Text encoders: a static token average, the offline MiniLM and any Hugging Face encoder, behind one class."""

from __future__ import annotations

from confitlib.encoder.backbones import Pooling, StaticBackbone, TransformerBackbone
from confitlib.encoder.loading import load_encoder
from confitlib.encoder.model import TextEncoder

__all__ = ["Pooling", "StaticBackbone", "TextEncoder", "TransformerBackbone", "load_encoder"]
