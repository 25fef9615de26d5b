"""An adaptive router that knows how long each answer will be: the bound for what a predictor can be worth."""

from collections.abc import Mapping

import numpy as np

from nanopd.cost_model import HardwareProfile
from nanopd.request import Request
from nanopd.router.adaptive import AdaptiveOptions, AdaptiveRouter
from nanopd.router.predictor import LengthDistribution
from nanopd.router.predictor.bins import EDGES
from nanopd.router.predictor.distribution import SurvivalTable


def certain(length: int) -> LengthDistribution:
    """The distribution of a length that is known."""
    survival = (np.array(EDGES) < length).astype(np.float64)
    return LengthDistribution(SurvivalTable(survival), length)


def oracle_router(
    profile: HardwareProfile, final_lens: Mapping[str, int], options: AdaptiveOptions | None = None
) -> AdaptiveRouter:
    """``final_lens``: a simulation's, request id -> prompt and output tokens."""

    def known(request: Request) -> LengthDistribution:
        return certain(max(1, final_lens[request.request_id] - len(request.prompt_token_ids)))

    return AdaptiveRouter(profile, options, known)
