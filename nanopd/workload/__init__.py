"""What is asked of a server, and when: arrivals, shapes of requests, traces. Pure and seeded: one seed, one workload.

``spec`` is what all of it makes, ``shapes`` says how long prompts and outputs are, ``arrivals`` when they come, ``generate`` joins the two,
``traces`` reads and writes files, ``prompts`` makes token ids.
"""

from nanopd.workload.arrivals import ARRIVALS, arrival_times
from nanopd.workload.generate import generate, named_workload, with_rate
from nanopd.workload.prompts import token_ids
from nanopd.workload.shapes import SHAPES, Shape, make_shape
from nanopd.workload.spec import PREFIX_BLOCK, RequestSpec
from nanopd.workload.traces import read_azure, read_mooncake, read_trace, write_trace

__all__ = [
    "ARRIVALS",
    "PREFIX_BLOCK",
    "SHAPES",
    "RequestSpec",
    "Shape",
    "arrival_times",
    "generate",
    "make_shape",
    "named_workload",
    "read_azure",
    "read_mooncake",
    "read_trace",
    "token_ids",
    "with_rate",
    "write_trace",
]
