"""Ways to train where the memory holds only a small batch."""
