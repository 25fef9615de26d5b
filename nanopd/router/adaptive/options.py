"""What the adaptive router is tuned by. The defaults were chosen on other seeds than those of the published records."""

from dataclasses import dataclass

from nanopd.request import Slo


@dataclass(frozen=True, slots=True)
class AdaptiveOptions:
    """The last ones switch parts off, to show what they are worth."""

    default_slo: Slo = Slo(2000.0, 50.0)  # for requests that state none
    chunk_size: int = 512  # of the workers' schedulers
    max_num_batched_tokens: int = 2048
    pipeline_depth: int = 2  # of the workers' engines: steps scheduled before the first of them has ended
    ttft_spread: float = 0.15  # error of a predicted time, as a share of its goal
    tpot_spread: float = 0.04
    price_per_s: float = 0.1  # of a second of a worker's time
    latency_weight: float = (
        0.05  # what a goal saved is worth, beyond keeping it; below role_price: nobody leaves a role only to be quicker
    )
    inflow_window_s: float = 3.0  # over which the prefill inflow of a worker is averaged
    shortlist: int = 3  # workers looked at for each stage and reason
    num_paired: int = 3  # of those for each stage, the best: every pair of them is a plan
    num_sampled_legs: int = 8  # of a worker, to estimate harm
    role_price: float = 0.1  # of a prefill on a worker that should decode, or of 100 tokens decoded in the wrong lane
    max_model_error: float = 1.6  # ratio of measured to predicted steps beyond which the model is not believed
    use_posterior: bool = True  # False: an answer is as long as such answers are on average, however old it is
    use_externality: bool = True  # False: no harm to others
    use_reservation: bool = True  # False: a choice counts only once its worker has opened the leg
    use_shadow: bool = True  # False: no harm to those still to come
    use_roles: bool = True  # False: every worker does both, whatever the load
    use_deadlines: bool = True  # False: prompts wait in order of arrival
    use_live_steps: bool = True  # False: step times as the profile says, whatever the workers report
    rejects_hopeless: bool = False  # requests that state objectives no plan is likely to keep
    defers_late: bool = True  # a prompt that is more likely late than not waits behind all others
