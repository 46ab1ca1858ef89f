"""How long things take, and how to keep a thing to its share."""

import contextlib
import time
from collections.abc import Iterator

import psutil


class TimeShare:
    """Keeps something to a `share` of the time since this was made: `is_left`, and then what it takes in `spending`."""

    def __init__(self, share: float):
        self.share, self._began, self._spent = share, time.monotonic(), 0.0

    def is_left(self) -> bool:
        """Tell whether so little has been spent that some may be again."""
        return self._spent <= self.share * (time.monotonic() - self._began)

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time that the block takes."""
        started = time.monotonic()
        yield
        self._spent += time.monotonic() - started


def process_seconds() -> float:
    """Return how long ago this process began, its imports included."""
    return time.time() - psutil.Process().create_time()
