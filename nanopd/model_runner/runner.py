"""The executor on a real device: block copies, forward pass, sampling, log-probabilities."""

import time
from collections.abc import Callable

import torch

from nanopd.attention import AttentionBatch, TorchAttention, make_backend
from nanopd.batch import Batch
from nanopd.config import EngineConfig, ModelConfig
from nanopd.errors import ConfigError
from nanopd.kv_cache import KvCache, size_pool
from nanopd.kv_cache.store import pool_bytes
from nanopd.layers.rotary import cos_sin_table
from nanopd.model_runner.capture import GraphCapture
from nanopd.model_runner.device import DTYPES, resolve_device, resolve_dtype, set_cpu_threads, sum_products_in_float32
from nanopd.model_runner.graphs import DecodeGraphs
from nanopd.model_runner.handle import FailedStep, FinishedStep, RunningStep, StepOutputs
from nanopd.model_runner.logprobs import logprob_rows, prompt_logprobs, rows_with_logprobs
from nanopd.model_runner.prepare import StepTensors, prepare
from nanopd.model_runner.sampling import sample_rows
from nanopd.model_runner.step_graphs import StepGraphs, token_ladder
from nanopd.model_runner.warm_up import warm_up
from nanopd.models.decoder import Decoder
from nanopd.weights import load_config, resolve_model
from nanopd.weights.loader import load_weights

AllocateKv = Callable[[int], torch.Tensor]  # bytes wanted -> zeroed uint8 buffer


class ModelRunner:
    """Implements ``engine.Executor``. Steps run in the order of submission; use it from one thread."""

    def __init__(
        self,
        decoder: Decoder,
        kv_cache: KvCache,
        max_model_len: int,
        max_num_seqs: int,
        *,
        max_graph_tokens: int | None = None,
    ) -> None:
        """``max_graph_tokens``: tokens of the largest step that runs as CUDA graphs; None: without graphs."""
        self.model_config: ModelConfig = decoder.config
        self.kv_cache = kv_cache
        self.max_model_len = max_model_len
        self.device = kv_cache.pool.device
        self.dtype = str(kv_cache.pool.dtype).removeprefix("torch.")
        self._decoder = decoder
        self._decode_graphs: DecodeGraphs | None = None
        self._step_graphs: StepGraphs | None = None
        if max_graph_tokens is None:
            self._sampled_ids_R = torch.zeros(max_num_seqs, dtype=torch.int32, device=self.device)
            return
        capture = GraphCapture(self.device)
        with capture.session():
            self._step_graphs = StepGraphs(decoder, kv_cache, max_graph_tokens, max_num_seqs, max_model_len, capture)
            self._decode_graphs = DecodeGraphs(decoder, kv_cache, max_num_seqs, max_model_len, capture)
        # Ids sampled by the step before stay on the device; a decode graph reads them where it was captured to.
        self._sampled_ids_R = self._decode_graphs.sampled_ids_R

    @classmethod
    def load(
        cls, config: EngineConfig, *, num_workers_on_device: int = 1, allocate_kv: AllocateKv | None = None
    ) -> "ModelRunner":
        """Loads weights, sizes and allocates the KV pool.

        ``allocate_kv``: provides the pool's memory (shared memory that peers write into). Raises UnknownModelError and ConfigError.
        """
        source = resolve_model(config.model)
        model = load_config(source)
        device = resolve_device(config.device)
        dtype = resolve_dtype(config.dtype, device)
        if device.type == "cpu":
            set_cpu_threads(config, num_workers_on_device)
        else:
            sum_products_in_float32()
        tensors = load_weights(source, model, DTYPES[dtype], device, config.load_format)
        attention = make_backend(config.attention_backend, model, config.cache.block_size, device, DTYPES[dtype])
        max_step_tokens = config.scheduler.max_num_batched_tokens
        has_graphs = config.cuda_graphs and device.type == "cuda" and not isinstance(attention, TorchAttention)
        max_graph_tokens = token_ladder(max_step_tokens)[-1] if has_graphs else None
        limit = _context_limit(config, model)
        num_blocks = size_pool(
            model,
            config.cache,
            dtype,
            device,
            num_workers_on_device=num_workers_on_device,
            max_useful_tokens=config.scheduler.max_num_seqs * limit,
            max_step_tokens=max_step_tokens + (max_graph_tokens or 0),  # graphs keep memory of their own
        )
        max_model_len = _bounded_by_pool(config, limit, num_blocks * config.cache.block_size)
        storage = allocate_kv(pool_bytes(model, num_blocks, config.cache.block_size, dtype)) if allocate_kv else None
        kv_cache = KvCache.allocate(model, num_blocks, config.cache.block_size, DTYPES[dtype], device, storage)
        decoder = Decoder(model, tensors, cos_sin_table(model, max_model_len, device), attention)
        max_num_seqs = config.scheduler.max_num_seqs
        if device.type == "cpu":
            return cls(decoder, kv_cache, max_model_len, max_num_seqs)
        with torch.cuda.device(device):
            runner = cls(decoder, kv_cache, max_model_len, max_num_seqs, max_graph_tokens=max_graph_tokens)
            warm_up(runner)
        return runner

    @torch.inference_mode()
    def submit(self, batch: Batch) -> FinishedStep | RunningStep | FailedStep:
        """Runs (CPU) or queues (CUDA) a step."""
        try:
            if self.device.type == "cuda":
                return self._submit_cuda(batch)
            started = time.perf_counter()
            return FinishedStep(self._step(batch), started)
        except Exception as error:  # belongs to whoever asks for the result
            return FailedStep(error)

    def _submit_cuda(self, batch: Batch) -> RunningStep:
        started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self.device):
            started.record()
            outputs = self._step(batch)
            outputs.start_copies_to_host()
            ended.record()
        return RunningStep(outputs, started, ended)

    def _step(self, batch: Batch) -> StepOutputs:
        self.kv_cache.copy_blocks(batch.block_copies)
        if self._decode_graphs is not None and self._decode_graphs.fits(batch):
            return self._sample(batch, self._decode_graphs.run(batch))
        step = prepare(batch, self.kv_cache.block_size, self.device)
        input_ids_T, wanted_R = self._input_ids(step), step.sample_rows_R
        if all(s.prompt_logprobs is None for s in batch.slices):
            rows_R = None if len(wanted_R) == len(input_ids_T) else wanted_R
            hidden_RE = self._forward(input_ids_T, step.attention, rows_R)
            return self._sample(batch, self._decoder.logits(hidden_RE)) if len(wanted_R) else _no_outputs()
        hidden_TE = self._forward(input_ids_T, step.attention)
        outputs = _no_outputs()
        if len(wanted_R):
            outputs = self._sample(batch, self._decoder.logits(hidden_TE.index_select(0, wanted_R)))
        outputs.prompt_logprobs = prompt_logprobs(batch, hidden_TE, self._decoder)
        return outputs

    def _forward(
        self, input_ids_T: torch.Tensor, batch: AttentionBatch, rows_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self._step_graphs is not None and self._step_graphs.fits(batch):
            return self._step_graphs.forward(input_ids_T, batch, rows_R)
        return self._decoder.forward(input_ids_T, batch, self.kv_cache, rows_R)

    def _input_ids(self, step: StepTensors) -> torch.Tensor:
        if step.previous_rows_T is None:
            return step.token_ids_T
        sampled = self._sampled_ids_R[step.previous_rows_T.clamp(min=0)]
        return torch.where(step.previous_rows_T >= 0, sampled.long(), step.token_ids_T)

    def _sample(self, batch: Batch, logits_RV: torch.Tensor) -> StepOutputs:
        specs = [spec for s in batch.slices if s.sample is not None for spec in (*s.verify, s.sample)]
        rows = rows_with_logprobs(specs)
        raw_NV = logits_RV[rows] if rows else None  # a copy: sampling adjusts logits in place
        token_ids_R = sample_rows(logits_RV, specs)
        if len(specs) <= len(self._sampled_ids_R):  # more: drafts are verified, and no step runs ahead of that
            self._sampled_ids_R[: len(specs)].copy_(token_ids_R)
        outputs = StepOutputs(token_ids_R)
        if raw_NV is not None:
            num_top = tuple(specs[row].params.logprobs or 0 for row in rows)
            outputs.logprob_row_ids, outputs.logprobs = rows, logprob_rows(raw_NV, token_ids_R[rows], num_top)
        return outputs


def _no_outputs() -> StepOutputs:
    return StepOutputs(torch.empty(0, dtype=torch.int64))


def _context_limit(config: EngineConfig, model: ModelConfig) -> int:
    limit = config.max_model_len or model.max_position
    if limit > model.max_position:
        raise ConfigError(f"max_model_len must be at most the model's {model.max_position}, got {limit}")
    return limit


def _bounded_by_pool(config: EngineConfig, limit: int, pool_tokens: int) -> int:
    if config.max_model_len is not None and pool_tokens < limit:
        raise ConfigError(f"max_model_len must fit the KV pool of {pool_tokens} tokens, got {limit}")
    return min(limit, pool_tokens)
