"""How long an answer will be: a belief that is learnt while serving and says how sure it is.

``LengthPredictor`` holds one posterior for each class of requests (``LengthKey``), ``LengthDistribution`` is what it answers with. ``bucketed_mean``
is the original's predictor, the baseline; ``scoring`` compares the two.
"""

from nanopd.router.predictor.bucketed_mean import BucketedMean
from nanopd.router.predictor.distribution import LengthDistribution
from nanopd.router.predictor.predictor import LengthKey, LengthPredictor

__all__ = ["BucketedMean", "LengthDistribution", "LengthKey", "LengthPredictor"]
