"""What needs all records at once: keys by which they are compared, and a database that spills to disk."""
