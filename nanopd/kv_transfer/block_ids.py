"""Block ids where a kernel reads them."""

from collections.abc import Sequence

import torch

from nanopd.kv_transfer.device_memory import copy_async


def on_device(block_ids: Sequence[int], device: torch.device) -> torch.Tensor:
    """int32 [n] on ``device``, copied on the current stream; the host does not wait."""
    return torch.tensor(list(block_ids), dtype=torch.int32).pin_memory().to(device, non_blocking=True)


class IdBuffer:
    """Two lists of block ids on a device and, to fill them without waiting, in pinned host memory. For one copy at a time; made once, used often:
    pinning takes longer than a small copy between two GPUs."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        """``capacity``: ids that either list may have. The memory comes from the current stream, on which it is to be used."""
        self.capacity = capacity
        self._pinned = torch.empty(2 * capacity, dtype=torch.int32, pin_memory=True)
        self._host = self._pinned.numpy()
        self._ids = torch.empty(2 * capacity, dtype=torch.int32, device=device)

    def fill(
        self, source_ids: Sequence[int], destination_ids: Sequence[int], stream: torch.cuda.Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies two lists of equal length: int32 [n] each. What used the buffer before must have ended."""
        count = len(source_ids)
        assert len(destination_ids) == count <= self.capacity
        self._host[:count], self._host[count : 2 * count] = source_ids, destination_ids
        copy_async(self._ids.data_ptr(), self._pinned.data_ptr(), 8 * count, stream)
        return self._ids[:count], self._ids[count : 2 * count]
