"""What trains: an engine each."""
