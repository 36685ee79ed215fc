"""Many files or arrays in one block of memory, which a loader's workers share without a copy."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class PackedBytes(Sequence[bytes]):
    """Byte strings end to end; packed[i] is the i-th.

    The block is a tensor: a forked worker shares its pages, which contain no reference counts, and
    a spawned one gets the same memory from torch.
    """

    def __init__(self, parts: Iterable[bytes]):
        block, ends = bytearray(), [0]
        for part in parts:
            block += part
            ends.append(len(block))
        self.block: Tensor = torch.frombuffer(block or bytearray(1), dtype=torch.uint8)
        self.ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return self._view(index).tobytes()

    @property
    def num_bytes(self) -> int:
        """The length of all byte strings."""
        return int(self.ends[-1])

    def _view(self, index: int) -> np.ndarray:
        return self.block[self.ends[index] : self.ends[index + 1]].numpy()


class PackedImages(PackedBytes):
    """uint8 arrays (H,W,C) of any sizes end to end; packed[i] is a view of the i-th, not a copy."""

    def __init__(self, images: Iterable[np.ndarray]):
        shapes: list[tuple[int, ...]] = []

        def parts() -> Iterable[bytes]:
            for image in images:
                shapes.append(image.shape)
                yield image.tobytes()

        super().__init__(parts())
        self.shapes = np.array(shapes, np.int64).reshape(-1, 3)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self._view(index).reshape(self.shapes[index])


def free_memory() -> int:
    """Bytes of main memory that may still be taken: the machine's, or less in a container."""
    import psutil  # comes with accelerate

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        pairs = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = next(int(value) for key, value in pairs if key == "inactive_file")
    except (OSError, ValueError, StopIteration):  # no container, or one without a limit ("max")
        return free
    return min(free, limit - used + cached)
