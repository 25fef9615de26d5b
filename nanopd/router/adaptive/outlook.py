"""What one worker can offer a request, and at what price to others."""

from typing import NamedTuple

from nanopd.config import Role
from nanopd.router.adaptive.harm import Harm
from nanopd.router.view import WorkerView


class Outlook(NamedTuple):
    """Milliseconds. What concerns a prefill is 0 if the worker is only asked to decode."""

    worker: WorkerView
    num_cached_tokens: int  # of the prompt
    num_new_tokens: int
    ttft_ms: float  # if it prefills here
    prefill_ms: float  # of the worker's time
    stall_ms: float  # of those who decode here, by the prefill
    follow_ms: float  # the step that may come after the prompt's last: what it has to push is acknowledged at its end
    step_ms: float  # a decode step now
    token_ms: float  # time per token once the request decodes here, prefills of others included
    growth_ms: float  # what one more sequence adds to a step
    harm: Harm
    role: Role
    shadow: float  # requests to come that its prefill here would make late

    @property
    def worker_id(self) -> str:
        return self.worker.worker_id
