"""Work in threads, which serves where the interpreter lock is released: reading and decoding files."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


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
