"""From a workload's specs to the requests the cluster sees."""

from zlib import crc32

from nanopd.request import Request, SamplingParams
from nanopd.simulator.executor import EOS_TOKEN
from nanopd.workload import PREFIX_BLOCK, RequestSpec

_NUM_IDS = 2**31 - 16


def request_of(spec: RequestSpec, request_id: str, max_model_len: int) -> Request:
    """What arrives: the length of the answer is not in it. A prompt block's token ids all stand for its hash, so equal prefixes are equal."""
    ids: list[int] = []
    for index in range(-(-spec.num_prompt_tokens // PREFIX_BLOCK)):
        key = spec.prefix_hashes[index] if index < len(spec.prefix_hashes) else crc32(f"{request_id}/{index}".encode())
        ids += [8 + key % _NUM_IDS] * PREFIX_BLOCK
    del ids[min(spec.num_prompt_tokens, max_model_len - 2) :]
    return Request(
        request_id,
        tuple(ids),
        SamplingParams(max_tokens=min(spec.max_tokens, max_model_len - len(ids) - 1), temperature=0.0, seed=0),
        arrival_time=spec.arrival_s,
        priority=spec.priority,
        slo=spec.slo,
        tenant=spec.tenant,
        eos_token_ids=(EOS_TOKEN,),
    )
