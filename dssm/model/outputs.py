"""Names of what the saved towers and the scorer return. Without TensorFlow, for those who only read of them."""

OUTPUT, SCORE = "vector", "score"


def output_name(objective: str) -> str:
    """Name of the output with one objective's vector."""
    return f"{OUTPUT}_{objective}"
