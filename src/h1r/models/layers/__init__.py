"""Layers that several families are made of: RMSNorm, rotary attention with a cache, the gated MLP."""
