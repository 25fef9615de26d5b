"""Block ids where a kernel reads them."""

from collections.abc import Sequence

import torch


def on_device(id_lists: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Lists of equal length as int32 tensors on ``device``, copied on the current stream; the host does not wait."""
    host = torch.tensor([list(ids) for ids in id_lists], dtype=torch.int32).pin_memory()
    return host.to(device, non_blocking=True).unbind()
