"""The native engine: continuous batching over the slots of a hybrid cache, in the trainer's own process."""
