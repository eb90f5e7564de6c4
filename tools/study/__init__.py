"""Studies: what they run, evaluate and show."""
