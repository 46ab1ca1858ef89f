"""What the records of a run's epochs say together."""


def best_record(history: list[dict]) -> dict | None:
    """Return the record of the epoch with the best validation accuracy, the earliest of equals; None without epochs."""
    return max(history, key=lambda record: record["val_accuracy"], default=None)
