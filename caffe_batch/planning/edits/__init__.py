"""What a plan changes in the user's files."""
