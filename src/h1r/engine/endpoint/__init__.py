"""A model behind an OpenAI-compatible API as an engine for benchmarks."""
