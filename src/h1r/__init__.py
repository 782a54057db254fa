"""Open-H1R: train, study and serve small hybrid reasoning models."""
