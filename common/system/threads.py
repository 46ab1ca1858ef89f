"""Work in threads, which serves where the interpreter lock is released: reading and decoding files."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


def read_ahead(read: Callable, items: Iterable, threads: int = 1, ahead: int = 1) -> Iterator:
    """Yield `read(item)` for each item in turn, computed in `threads`; each of them is up to `ahead` items ahead.

    What `read` raises is raised where its result would have come; what was under way then is given up.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        coming = iter(items)
        waiting = deque(pool.submit(read, item) for item in itertools.islice(coming, threads * ahead))
        while waiting:
            waiting.extend(pool.submit(read, item) for item in itertools.islice(coming, 1))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Does one piece of work after the other in a thread, while the caller goes on."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Begin `work` as soon as the work before is done; what that has raised is raised here."""
        self.wait()
        self._under_way = self._pool.submit(work)

    def wait(self) -> None:
        """Wait until all is done, and raise what it has raised."""
        if self._under_way is not None:
            try:
                self._under_way.result()
            finally:  # Ctrl-C may have come first
                if self._under_way.done():
                    self._under_way = None
