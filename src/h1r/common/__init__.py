"""What every package uses: files that appear whole, progress, HTTP, the terminal, memory."""
