"""Decode steps as CUDA graphs, one for each batch size of a ladder.

A step is one host-to-device copy, one small kernel that spreads the block tables, and one graph launch: no per-layer Python, no allocation. Sampling
follows outside the graph, where it serves every kind of batch; its launch is queued while the graph runs.
"""

import torch

from nanopd.batch import Batch
from nanopd.kv_cache import KvCache
from nanopd.model_runner.capture import Capture, Work
from nanopd.model_runner.decode_inputs import DecodeInputs
from nanopd.models.decoder import Decoder

_LARGEST = 512


def ladder(max_num_seqs: int) -> list[int]:
    """Batch sizes with a graph. From 64 on neighbours lie a quarter or less apart, so that padding costs little."""
    sizes = (1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, _LARGEST, 32))
    return [*(size for size in sizes if size < max_num_seqs), min(max_num_seqs, _LARGEST)]


class DecodeGraphs:
    """Captured at construction; ``run`` serves the batches ``fits`` accepts. One stream uses it."""

    @torch.inference_mode()
    def __init__(
        self, decoder: Decoder, kv_cache: KvCache, max_num_seqs: int, max_model_len: int, capture: Capture
    ) -> None:
        device, self._sizes = kv_cache.pool.device, ladder(max_num_seqs)
        largest = self._sizes[-1]
        self._decoder, self._kv_cache = decoder, kv_cache
        self._inputs = DecodeInputs(largest, max_num_seqs, max_model_len, kv_cache.block_size, device)
        self._logits_BV = torch.empty(largest, decoder.config.vocab_size, dtype=torch.float32, device=device)
        # The largest first: the others then find room in its memory.
        self._replays = {size: capture(self._step(size)) for size in reversed(self._sizes)}

    @property
    def sampled_ids_R(self) -> torch.Tensor:
        """int32: where the runner leaves a step's ids for the next one."""
        return self._inputs.sampled_ids_R

    def fits(self, batch: Batch) -> bool:
        """Pure decode of sequences that all sample, within the largest graph."""
        return len(batch.slices) <= self._sizes[-1] and all(
            s.is_decode and s.sample is not None and s.prompt_logprobs is None for s in batch.slices
        )

    def run(self, batch: Batch) -> torch.Tensor:
        """Raw logits, float32 [n, V], a view that the next step overwrites."""
        num_seqs = len(batch.slices)
        size = next(size for size in self._sizes if size >= num_seqs)
        self._inputs.load(batch, size)
        self._replays[size]()
        return self._logits_BV[:num_seqs]

    def _step(self, size: int) -> Work:
        sources, geometry = self._inputs.views(size)
        self._inputs.clear(size)

        def step() -> None:
            hidden_BE = self._decoder.forward(self._inputs.input_ids(sources), geometry, self._kv_cache)
            self._decoder.logits(hidden_BE, out=self._logits_BV[:size])

        return step
