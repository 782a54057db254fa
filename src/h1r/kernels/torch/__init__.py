"""The operators in plain PyTorch, for every device and float type."""
