"""What may stay: rules on records, each of which gives its reason."""
