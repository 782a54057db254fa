"""The model's operators: `contract` says what they are, `selection` chooses an implementation for a device."""
