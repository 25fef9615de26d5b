"""Steps with prompts as CUDA graphs: one for each token count of a ladder and kind of step.

A graph holds a forward pass up to the last layer's attention. What follows it is launched as ever, for the sampled rows alone. Attention reads the
lengths on the device, so a graph serves every step within its ``StepShape``. Launched one by one the kernels of 36 layers take the host 10 to 20 ms,
which is longer than an H200 takes for a step of 256 tokens.
"""

from dataclasses import dataclass

import torch

from nanopd.attention import AttentionBatch
from nanopd.kv_cache import KvCache
from nanopd.model_runner.capture import Capture, Work
from nanopd.models.decoder import Decoder

_LARGEST = 2048  # tokens; above, the device needs longer for a step than the host
_MANY_PROMPTS = 64
_WIDE = 512  # tokens whose attention fills a GPU without being split


def token_ladder(max_tokens: int) -> list[int]:
    """Token counts with graphs. From 256 on they lie on edges of tiles; twice as many would save 2 % of a step (benchmarks/results/step-graphs*)."""
    sizes = (8, 16, 32, 48, 64, 96, 128, 192, *range(256, _LARGEST, 128))
    return [*(size for size in sizes if size < max_tokens), min(max_tokens, _LARGEST)]


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a graph has room for. The rows of block tables and lengths: ``num_decodes`` of one-token sequences, then ``num_prompts``."""

    num_tokens: int
    num_decodes: int
    num_prompts: int

    def holds(self, batch: AttentionBatch) -> bool:
        num_prompts = len(batch.q_lens) - batch.num_decodes
        return (
            len(batch.positions_T) <= self.num_tokens
            and batch.num_decodes <= self.num_decodes
            and num_prompts <= self.num_prompts
        )


def step_shapes(max_tokens: int, max_num_seqs: int) -> list[StepShape]:
    """By size. A prompt alone need not look for decodes, and attention of one prompt can be split along its context as one of many cannot."""
    shapes = []
    for size in token_ladder(max_tokens):
        num_decodes, num_prompts = min(size, max_num_seqs), min(size, max_num_seqs, _MANY_PROMPTS)
        shapes.append(StepShape(size, 0, 1))
        if size < _WIDE and num_prompts > 1:
            shapes.append(StepShape(size, num_decodes, 1))
        shapes.append(StepShape(size, num_decodes, num_prompts))
    return shapes


class StepGraphs:
    """Captured at construction; ``forward`` stands in for the decoder's. One stream uses it."""

    @torch.inference_mode()
    def __init__(
        self,
        decoder: Decoder,
        kv_cache: KvCache,
        max_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        capture: Capture,
    ) -> None:
        config, device, dtype = decoder.config, kv_cache.pool.device, kv_cache.pool.dtype
        self._decoder, self._kv_cache, self._max_model_len = decoder, kv_cache, max_model_len
        self._shapes = step_shapes(max_tokens, max_num_seqs)
        largest = self._shapes[-1]
        num_rows = largest.num_decodes + largest.num_prompts
        max_blocks = -(-max_model_len // kv_cache.block_size)
        self._token_ids_T = torch.zeros(largest.num_tokens, dtype=torch.int64, device=device)
        self._positions_T = torch.zeros(largest.num_tokens, dtype=torch.int64, device=device)
        self._slots_T = torch.full((largest.num_tokens,), -1, dtype=torch.int64, device=device)
        self._tables_BM = torch.zeros(num_rows, max_blocks, dtype=torch.int32, device=device)
        self._context_lens_B = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._cu_q_lens_B1 = torch.zeros(num_rows + 1, dtype=torch.int32, device=device)
        self._residual_TE = torch.zeros(largest.num_tokens, config.hidden_size, dtype=torch.float32, device=device)
        self._attended_THD = torch.zeros(
            largest.num_tokens, config.num_heads, config.head_dim, dtype=dtype, device=device
        )
        # The largest first: the others then find room in its memory.
        self._replays = {shape: capture(self._pass(shape)) for shape in reversed(self._shapes)}

    def fits(self, batch: AttentionBatch) -> bool:
        return self._shapes[-1].holds(batch)

    def forward(
        self, token_ids_T: torch.Tensor, batch: AttentionBatch, rows_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As ``Decoder.forward`` on this KV cache, for a batch that fits."""
        shape, num_tokens = next(shape for shape in self._shapes if shape.holds(batch)), len(token_ids_T)
        self._load(token_ids_T, batch, shape)
        self._replays[shape]()
        if rows_R is not None and not len(rows_R):
            return self._attended_THD.new_empty(0, self._residual_TE.shape[1])
        return self._decoder.finish(self._attended_THD[:num_tokens], self._residual_TE[:num_tokens], rows_R)

    def _pass(self, shape: StepShape) -> Work:
        batch, num_tokens = self._static_batch(shape), shape.num_tokens
        last = self._kv_cache.layer(self._decoder.config.num_layers - 1)

        def run() -> None:
            q_THD, residual_TE = self._decoder.last_queries(self._token_ids_T[:num_tokens], batch, self._kv_cache)
            self._residual_TE[:num_tokens].copy_(residual_TE)
            self._attended_THD[:num_tokens].copy_(self._decoder.attention.attend(q_THD, last, batch))

        return run

    def _static_batch(self, shape: StepShape) -> AttentionBatch:
        """The geometry of any step within the shape: the lengths known to the host are bounds."""
        num_seqs = shape.num_decodes + shape.num_prompts
        return AttentionBatch(
            positions_T=self._positions_T[: shape.num_tokens],
            slot_mapping_T=self._slots_T[: shape.num_tokens],
            block_tables_BM=self._tables_BM[:num_seqs],
            context_lens_B=self._context_lens_B[:num_seqs],
            cu_q_lens_B1=self._cu_q_lens_B1[: num_seqs + 1],
            num_decodes=shape.num_decodes,
            q_lens=(1,) * shape.num_decodes + (shape.num_tokens,) * shape.num_prompts,
            context_lens=(self._max_model_len,) * num_seqs,
            block_size=self._kv_cache.block_size,
        )

    def _load(self, token_ids_T: torch.Tensor, batch: AttentionBatch, shape: StepShape) -> None:
        """Token rows beyond the step's keep their ids and positions and store nothing; sequences beyond it have context 0."""
        num_tokens, num_decodes, num_seqs = len(token_ids_T), batch.num_decodes, len(batch.q_lens)
        first, end = shape.num_decodes, shape.num_decodes + num_seqs - num_decodes  # rows of the prompts
        self._token_ids_T[:num_tokens].copy_(token_ids_T)
        self._positions_T[:num_tokens].copy_(batch.positions_T)
        self._slots_T[:num_tokens].copy_(batch.slot_mapping_T)
        self._slots_T[num_tokens : shape.num_tokens].fill_(-1)
        self._context_lens_B.zero_()
        self._cu_q_lens_B1.fill_(num_tokens)
        num_blocks = batch.block_tables_BM.shape[1]
        self._tables_BM[:num_decodes, :num_blocks].copy_(batch.block_tables_BM[:num_decodes])
        self._tables_BM[first:end, :num_blocks].copy_(batch.block_tables_BM[num_decodes:])
        self._context_lens_B[:num_decodes].copy_(batch.context_lens_B[:num_decodes])
        self._context_lens_B[first:end].copy_(batch.context_lens_B[num_decodes:])
        self._cu_q_lens_B1[first : end + 1].copy_(batch.cu_q_lens_B1[num_decodes:])
