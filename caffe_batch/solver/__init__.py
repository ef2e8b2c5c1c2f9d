"""What a SolverParameter means, whoever runs it."""
