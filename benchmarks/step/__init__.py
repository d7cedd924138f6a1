"""make bench-step: where the time of a training step goes. Begins in __main__."""
