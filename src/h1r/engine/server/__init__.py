"""A vLLM server as an engine: its client."""
