"""The job directory: its files, and nobody else reads or writes them."""
