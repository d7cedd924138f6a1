"""make bench-samples: events a second from a log to encoded samples, and the memory that it takes."""
