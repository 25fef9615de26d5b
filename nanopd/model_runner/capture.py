"""Capturing work as CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Work = Callable[[], object]
Capture = Callable[[Work], Work]  # GraphCapture, or in tests what leaves the work as it is


class GraphCapture:
    """Makes graphs that share one memory pool, so they may only be replayed one after another, on one stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Work is captured within: on a side stream, for the default stream allows no captures."""
        main, side = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            yield
        main.wait_stream(side)
        torch.cuda.empty_cache()  # what ran before its capture left memory that only the side stream could use

    def __call__(self, work: Work) -> Work:
        """The replay of ``work``, which always reads and writes the same places."""
        work()  # compiles kernels and lets cuBLAS choose: neither may happen in a capture
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool)
        try:
            work()
        finally:
            graph.capture_end()
        return graph.replay
