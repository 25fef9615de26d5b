"""An adaptive router that knows how long each answer will be: the bound for what a predictor can be worth."""

from collections.abc import Mapping

from nanopd.cost_model import HardwareProfile
from nanopd.request import Request
from nanopd.router.adaptive import AdaptiveOptions, AdaptiveRouter
from nanopd.router.predictor import LengthDistribution


def oracle_router(
    profile: HardwareProfile, final_lens: Mapping[str, int], options: AdaptiveOptions | None = None
) -> AdaptiveRouter:
    """``final_lens``: a simulation's, request id -> prompt and output tokens."""

    def known(request: Request) -> LengthDistribution:
        return LengthDistribution.certain(max(1, final_lens[request.request_id] - len(request.prompt_token_ids)))

    return AdaptiveRouter(profile, options, known)
