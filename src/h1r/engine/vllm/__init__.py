"""vLLM as an engine, and what vLLM loads of this package: its plugin, and what runs in its workers."""
