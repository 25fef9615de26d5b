"""Log-probabilities of chosen tokens and of the most probable ones, always from the raw logits."""

from dataclasses import dataclass

import torch

from nanopd.batch import Batch, SampleSpec
from nanopd.models.decoder import Decoder
from nanopd.request import TokenLogprobs

_PROMPT_ROWS = 256  # prompt positions whose logits are in memory at once


@dataclass(slots=True)
class LogprobTensors:
    """Rows of log-probabilities, still on their device: the chosen token's, and the top k by row."""

    chosen_N: torch.Tensor  # float32
    token_ids_N: torch.Tensor  # int64
    top_values_Nk: torch.Tensor
    top_ids_Nk: torch.Tensor
    num_top: tuple[int, ...]  # how many of the k each row asked for

    def start_copies_to_host(self) -> None:
        """Replaces the tensors by pinned copies, valid once the stream has got so far."""
        self.chosen_N, self.token_ids_N = pinned_copy(self.chosen_N), pinned_copy(self.token_ids_N)
        self.top_values_Nk, self.top_ids_Nk = pinned_copy(self.top_values_Nk), pinned_copy(self.top_ids_Nk)

    def to_host(self) -> list[TokenLogprobs]:
        values, ids = self.top_values_Nk.tolist(), self.top_ids_Nk.tolist()
        chosen, tokens = self.chosen_N.tolist(), self.token_ids_N.tolist()
        return [
            TokenLogprobs(tokens[row], chosen[row], tuple(zip(ids[row][:k], values[row][:k], strict=True)))
            for row, k in enumerate(self.num_top)
        ]


def pinned_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Starts a copy to the host that the device makes when the stream gets there."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def logprob_rows(logits_NV: torch.Tensor, token_ids_N: torch.Tensor, num_top: tuple[int, ...]) -> LogprobTensors:
    """``logits`` raw, one row per token of which the log-probability is asked."""
    logprobs_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    top = logprobs_NV.topk(max(num_top), dim=-1)
    chosen_N = logprobs_NV.gather(1, token_ids_N[:, None]).squeeze(1)
    return LogprobTensors(chosen_N, token_ids_N, top.values, top.indices, num_top)


def rows_with_logprobs(specs: list[SampleSpec]) -> list[int]:
    return [row for row, spec in enumerate(specs) if spec.params.logprobs is not None]


def prompt_logprobs(batch: Batch, hidden_TE: torch.Tensor, decoder: Decoder) -> dict[str, list[LogprobTensors]]:
    """By request, the log-probabilities of each slice's ``logprob_targets``, in pieces of bounded size."""
    found: dict[str, list[LogprobTensors]] = {}
    first_token = 0
    for s in batch.slices:
        if s.prompt_logprobs is not None and len(s.logprob_targets):
            targets = torch.tensor(s.logprob_targets, dtype=torch.int64, device=hidden_TE.device)
            hidden = hidden_TE[first_token : first_token + len(targets)]
            found[s.request_id] = [
                logprob_rows(decoder.logits(rows), ids, (s.prompt_logprobs,) * len(ids))
                for rows, ids in zip(hidden.split(_PROMPT_ROWS), targets.split(_PROMPT_ROWS), strict=True)
            ]
        first_token += s.num_tokens
    return found
