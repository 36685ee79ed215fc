"""The order in which photos are trained on: a pure function of the seed and the position."""

from collections.abc import Iterator

import numpy as np


class Order:
    """The endless shuffled sequence of `length` photos: every photo once an epoch, epoch by epoch.

    order.at(position) is (epoch, index); epochs run into each other, nothing is dropped.
    """

    def __init__(self, length: int, *, seed: int):
        self.length, self.seed = length, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """The epoch, and which photo of it comes at this position."""
        epoch, k = divmod(position, self.length)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            self._epoch = epoch
        return epoch, int(self._permutation[k])


def positions_of(batch: int, *, batch_size: int, process: int, num_processes: int) -> range:
    """The positions of global batch b that process r of P takes: the r-th B of [bBP, (b+1)BP).

    So two processes with batches of B together see the same as one with batches of 2B.
    """
    start = (batch * num_processes + process) * batch_size
    return range(start, start + batch_size)


def batches_of(
    order: Order, *, start: int, batch_size: int, process: int, num_processes: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (epoch, index) pairs of batch `start`, start + 1, … without end."""
    while True:
        positions = positions_of(
            start, batch_size=batch_size, process=process, num_processes=num_processes
        )
        yield [order.at(position) for position in positions]
        start += 1
