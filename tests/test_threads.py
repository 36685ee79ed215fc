"""Work in threads: in order, and only if the cores are free for it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest

from condiff.threads import MAX_THREADS, count_threads, map_in_threads, use_all_cores


@pytest.fixture
def cores():
    """Set the number of threads of OpenCV, by default the number of cores."""
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


@pytest.mark.parametrize("number", [1, 3])
def test_results_are_in_the_order_of_their_parts(cores, number):
    cores(number)
    assert map_in_threads(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert map_in_threads(str, []) == []


def test_parts_are_worked_on_at_the_same_time(cores):
    cores(2)
    met = threading.Barrier(2, timeout=60)
    assert sorted(map_in_threads(lambda _: met.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_of_a_part_is_raised(cores, number):
    cores(number)
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda n: 1 / n, [2, 1, 0, 3])


def test_a_thread_of_a_pool_works_in_order_unless_it_is_alone(cores):
    cores(4)
    assert count_threads() == 4
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count_threads).result() == 1
        names = pool.submit(
            lambda: set(map_in_threads(lambda _: threading.current_thread().name, range(8)))
        )
        assert len(names.result()) == 1
    with ThreadPoolExecutor(1, initializer=use_all_cores) as pool:
        assert pool.submit(count_threads).result() == 4
    cores(64)
    assert count_threads() == MAX_THREADS
