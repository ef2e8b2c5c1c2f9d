"""The schedule at another effective batch, and batches that grow."""
