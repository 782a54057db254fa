"""Layers that several families are made of: embeddings, RMSNorm, rotary attention with a cache, the gated MLP."""
