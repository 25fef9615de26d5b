"""The original's predictor, the baseline: the mean of all lengths seen in the request's bucket of prompt lengths."""

from bisect import bisect_right

from nanopd.router.predictor.predictor import LengthKey

_BOUNDS = (64, 128, 256, 512, 1024, 2048, 4096)


class BucketedMean:
    """Cut requests count as if they had ended; nothing is forgotten. With ``window`` it is a sliding mean instead (exponential)."""

    def __init__(self, default: float = 128.0, window: float | None = None) -> None:
        self._means = [default] * (len(_BOUNDS) + 1)
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._window = window

    def observe(self, key: LengthKey, length: int, censored: bool = False, now: float = 0.0, since: int = 0) -> None:
        bucket = bisect_right(_BOUNDS, key.num_prompt_tokens)
        self._counts[bucket] += 1
        count = self._counts[bucket] if self._window is None else min(self._counts[bucket], self._window)
        self._means[bucket] += (length - self._means[bucket]) / count

    def predict(self, key: LengthKey) -> float:
        """The expected output length, tokens."""
        return min(self._means[bisect_right(_BOUNDS, key.num_prompt_tokens)], float(key.max_tokens))
