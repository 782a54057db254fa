"""A response as text: where its thinking ends and its answer stands, its form, its languages, its repetitions."""
