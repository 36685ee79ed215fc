"""Work that one thread spreads over the processor's cores, if no other thread uses them.

A batch works on one photo per core, so each of its threads does everything in order. Results are
the same, bit for bit, for any number of threads.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2

MAX_THREADS = 8  # more would wait for memory

_alone = threading.local()

Part = TypeVar("Part")
Result = TypeVar("Result")


def use_all_cores() -> None:
    """Let the calling thread use all cores, as the main thread does; no other may be at work."""
    _alone.is_set = True


def count_threads() -> int:
    """How many threads the calling one may use: OpenCV's number, but at most MAX_THREADS.

    It is 1 in a thread of a pool, such as a batch's: the cores are busy.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main or getattr(_alone, "is_set", False)):
        return 1
    return max(1, min(cv2.getNumThreads(), MAX_THREADS))


def map_in_threads(work: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
    """The results of work on parts that do not depend on each other, in their order.

    The first error of any part is raised, after all parts have ended.
    """
    threads = count_threads()
    if threads == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))
