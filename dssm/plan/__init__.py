"""What a pipeline will need, on paper: bytes, memory and hours from the settings, sizes, and measured constants."""
