"""From sample specifications to sampled ids."""

from collections.abc import Sequence

import numpy as np
import torch

from nanopd.batch import SampleSpec
from nanopd.layers.penalties import adjust_row_, needs_adjustment
from nanopd.layers.sampler import SamplingTensors, sample


def sample_rows(logits_RV: torch.Tensor, specs: Sequence[SampleSpec]) -> torch.Tensor:
    """int64 [R]. Adjusts ``logits`` in place (bias, penalties, suppression)."""
    for row, spec in enumerate(specs):
        if needs_adjustment(spec.params, spec.suppressed_token_ids):
            adjust_row_(
                logits_RV[row], spec.params, spec.prompt_token_ids, spec.output_token_ids, spec.suppressed_token_ids
            )
    return sample(logits_RV, sampling_tensors(specs, logits_RV.device))


def sampling_tensors(specs: Sequence[SampleSpec], device: torch.device) -> SamplingTensors | None:
    """None when every row is greedy."""
    params = [spec.params for spec in specs]
    if all(p.is_greedy for p in params):
        return None
    rows = np.array(
        [(p.temperature, p.top_p, p.min_p, s.uniform) for p, s in zip(params, specs, strict=True)], dtype=np.float32
    )
    temperature, top_p, min_p, uniform = _to_device(rows.T, device)
    top_k = _to_device(np.array([p.top_k for p in params], dtype=np.int64), device)
    return SamplingTensors(
        temperature_R=temperature,
        top_k_R=top_k,
        top_p_R=top_p,
        min_p_R=min_p,
        uniform_R=uniform,
        any_random=True,
        any_greedy=any(p.is_greedy for p in params),
        any_cut=any(not p.is_greedy and (p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0) for p in params),
    )


def _to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
