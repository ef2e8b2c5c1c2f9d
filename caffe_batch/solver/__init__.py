"""What a SolverParameter means, whichever engine runs it."""
