"""What the adaptive router is tuned by. The defaults were chosen on other seeds than those of the published records."""

from dataclasses import dataclass

from nanopd.request import Slo


@dataclass(frozen=True, slots=True)
class AdaptiveOptions:
    """The last three switch parts off, to show what they are worth."""

    default_slo: Slo = Slo(2000.0, 50.0)  # for requests that state none
    chunk_size: int = 512  # of the workers' schedulers
    max_num_batched_tokens: int = 2048
    ttft_spread: float = 0.12  # of a predicted time, as a share of its goal: how sharply the chance to keep it falls
    tpot_spread: float = 0.03
    price_per_s: float = 0.1  # of a second of a worker's time
    latency_weight: float = 0.15  # what a goal saved is worth, beyond keeping it
    inflow_window_s: float = 4.0  # over which the prefill inflow of a worker is averaged
    shortlist: int = 4  # workers looked at for each stage
    num_sampled_legs: int = 16  # of a worker, to estimate harm
    role_price: float = (
        0.1  # of 30 ms of prefill on a worker that should decode, or of 100 tokens decoded on one that should prefill
    )
    strict_role_price: float = 0.3  # the same when the roles are strict
    max_model_error: float = 1.6  # ratio of measured to predicted steps beyond which the model is not believed
    use_posterior: bool = True  # False: only the mean of the output length
    use_externality: bool = True  # False: no harm to others
    use_reservation: bool = True  # False: a choice counts only once its worker has opened the leg
