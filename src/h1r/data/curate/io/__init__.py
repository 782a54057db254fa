"""What curation reads and writes: files of any format, the records between passes, training samples."""
