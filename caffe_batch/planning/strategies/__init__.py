"""Ways to train if only a small batch fits into memory."""
