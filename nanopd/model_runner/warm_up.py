"""Runs every kind of step once before the first request: kernels compile (or fail with their log) at start, not under load."""

from array import array
from typing import Any, Protocol

from nanopd.batch import Batch, SampleSpec, SeqSlice
from nanopd.request import SamplingParams

_KINDS = (SamplingParams(temperature=0.0), SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_p=0.9))


class _Runner(Protocol):
    def submit(self, batch: Batch) -> Any: ...


def warm_up(runner: _Runner) -> None:
    """A prefill, a chunk on cached context and a decode, with each kind of sampling. Uses block 0, which nobody owns yet."""
    table = array("i", [0])
    for params in _KINDS:
        spec = SampleSpec(params, 0.5, (), ())
        for start, num_tokens in ((0, 2), (2, 2), (4, 1)):
            piece = SeqSlice("warm-up", [0] * num_tokens, num_tokens, start, table, sample=spec)
            runner.submit(Batch(0, (piece,))).result()
