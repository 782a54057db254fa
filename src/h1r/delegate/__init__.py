"""Benchmarks that other harnesses run on our models: inspect_ai, lm_eval, harbor."""
