"""Names of what the saved towers and the scorer return. Without TensorFlow, for those who only read of them."""

OUTPUT, SCORE = "vector", "score"


def output_name(objective: str | None) -> str:
    """Name of the output with an objective's own vectors; None: with the combined ones."""
    return OUTPUT if objective is None else f"{OUTPUT}_{objective}"
