"""What a person looks at: decoded samples, and the data report of a run. Reads a run's files; needs no engine."""
