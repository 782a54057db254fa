"""Qwen3 (dense): attention with normed queries and keys, then a gated MLP, in every layer."""
