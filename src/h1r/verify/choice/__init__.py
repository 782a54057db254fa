"""The option letter that an answer states."""
