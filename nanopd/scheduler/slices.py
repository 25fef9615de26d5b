"""From a sequence's state to its slice of the next step."""

from collections.abc import Sequence as SequenceOf

from nanopd.batch import SampleSpec, SeqSlice
from nanopd.scheduler.sequence import Sequence
from nanopd.scheduler.uniform import uniform


def sample_spec(seq: Sequence, draft: SequenceOf[int] = ()) -> SampleSpec:
    """How the token after the sequence, and the ``draft`` behind it, is drawn."""
    if seq.greedy_spec is not None:
        return seq.greedy_spec
    params, position = seq.request.sampling, seq.num_tokens + len(draft)
    spec = SampleSpec(
        params,
        0.0 if params.is_greedy else uniform(seq.stream_key, position),
        seq.request.prompt_token_ids,
        [*seq.token_ids[seq.num_prompt_tokens :], *draft] if seq.needs_history else (),
        seq.stop_ids_tuple if position < seq.min_len else (),
    )
    if params.is_greedy and not seq.needs_history and seq.num_tokens >= seq.min_len:
        seq.greedy_spec = spec  # the same at every later position
    return spec


def decode_slice(seq: Sequence) -> SeqSlice:
    """Feeds the one token that has no KV yet: known, or sampled by the step submitted just before."""
    assert seq.table is not None
    is_known = seq.num_pending == 0
    return SeqSlice(
        seq.seq_id,
        (seq.token_ids[-1],) if is_known else (),
        1,
        seq.num_computed_tokens,
        seq.table.ids,
        None if is_known else seq.pending_row,
        sample_spec(seq),
    )


def verify_slice(seq: Sequence, draft: SequenceOf[int]) -> SeqSlice:
    """Feeds the one known token without KV and the ``draft`` behind it, and samples after each of them."""
    assert seq.table is not None and seq.num_pending == 0
    return SeqSlice(
        seq.seq_id,
        (seq.token_ids[-1], *draft),
        1 + len(draft),
        seq.num_computed_tokens,
        seq.table.ids,
        sample=sample_spec(seq, draft),
        verify=tuple(sample_spec(seq, draft[:index]) for index in range(len(draft))),
    )


def chunk_slice(seq: Sequence, num_tokens: int) -> SeqSlice:
    """Feeds the next ``num_tokens`` known tokens; samples if they are the last."""
    assert seq.table is not None and seq.num_pending == 0
    start = seq.num_computed_tokens
    end = start + num_tokens
    targets: SequenceOf[int] = ()
    if seq.lacks_prompt_logprobs and start < seq.num_prompt_tokens - 1:
        targets = seq.token_ids[start + 1 : min(end + 1, seq.num_prompt_tokens)]
    return SeqSlice(
        seq.seq_id,
        seq.token_ids[start:end],
        num_tokens,
        start,
        seq.table.ids,
        None,
        sample_spec(seq) if end == len(seq.token_ids) else None,
        seq.request.sampling.prompt_logprobs if targets else None,
        targets,
    )
