"""The split of the effective batch, and the batches of the test nets."""
