"""make bench-train: samples a second of a training, beside DeepMatch's. Begins in __main__."""
