"""What accumulation does to a training."""
