"""The step model kept true while serving: recursive least squares on live steps.

The offline prediction has three parts (tokens, prompt attention, context reading). Each gets a factor, 1 at first, so a device that clocks down, or
whose memory another tenant shares, is followed without forgetting the shape of the fit. A correction is used only while it has lately predicted
better than the offline fit, clearly: on stationary data that cannot make predictions worse than the fit's.
"""

from math import sqrt

from nanopd.cost_model.features import StepFeatures
from nanopd.cost_model.step_model import StepModel
from nanopd.messages import StepTiming

_PRIOR_VARIANCE = 0.05  # of a factor: 1 plus or minus a fifth
_OUTLIER = 5.0  # typical deviations from which a step is one
_MAX_OUTLIERS = 8  # in a row: then the world has changed
_ERROR_RATE = 0.02  # of the running errors' means
_MARGIN = 0.1  # share of the offline error that the correction must have saved,
_CONFIDENCE = 3.0  # and by that many standard errors


class OnlineStepModel:
    """Predicts as ``StepModel`` does; ``observe`` teaches it. About 2 microseconds a prediction, 40 an observation."""

    def __init__(self, offline: StepModel, forgetting: float = 0.995) -> None:
        if not 0.5 < forgetting <= 1.0:
            raise ValueError(f"forgetting must be in (0.5, 1], got {forgetting}")
        self.offline = offline
        self.factors = [1.0, 1.0, 1.0]
        self.is_corrected = False  # whether predictions use the correction
        self.num_observed = self.num_outliers = 0
        self._forgetting = forgetting
        self._covariance = _prior()
        self._offline_error = self._corrected_error = 0.0
        self._saved_squared = 0.0  # mean square of what the correction saved of each step's error
        self._deviation = 0.1  # typical |error| of corrected predictions, relative
        self._outliers_in_a_row = 0

    @property
    def error(self) -> float:
        """Mean relative error of late, of the predictions in use."""
        return self._corrected_error if self.is_corrected else self._offline_error

    def predict_ms(self, f: StepFeatures) -> float:
        if not self.is_corrected:
            return self.offline.predict_ms(f)
        return _weighted(self.factors, self.offline.parts_ms(f))

    def quantile_ms(self, f: StepFeatures, q: float) -> float:
        """The offline quantile, moved by the same factor as the median."""
        predicted = self.offline.predict_ms(f)
        return self.offline.quantile_ms(f, q) * (self.predict_ms(f) / predicted if predicted else 1.0)

    def observe(self, timing: StepTiming) -> None:
        """Learns from a live step. Steps far off are left out, unless they keep coming."""
        f = StepFeatures.of_timing(timing)
        parts = self.offline.parts_ms(f)
        total = parts[0] + parts[1] + parts[2]
        if total <= 0.0 or timing.step_ms <= 0.0:
            return
        inputs = [part / timing.step_ms for part in parts]  # errors are relative to the measurement
        corrected, offline = 1.0 - _weighted(self.factors, inputs), 1.0 - total / timing.step_ms
        self.num_observed += 1
        if abs(corrected) > _OUTLIER * self._deviation:
            self._outliers_in_a_row += 1
            self.num_outliers += 1
            if self._outliers_in_a_row <= _MAX_OUTLIERS:
                return
            self._deviation = abs(corrected)
            self._covariance = _prior()
        self._outliers_in_a_row = 0
        self._deviation += 0.05 * (abs(corrected) - self._deviation)
        self._deviation = max(self._deviation, 0.005)
        self._offline_error += _ERROR_RATE * (abs(offline) - self._offline_error)
        self._corrected_error += _ERROR_RATE * (abs(corrected) - self._corrected_error)
        self._saved_squared += _ERROR_RATE * ((abs(offline) - abs(corrected)) ** 2 - self._saved_squared)
        self.is_corrected = self._is_clearly_better()
        self._update(inputs, corrected)

    def _is_clearly_better(self) -> bool:
        saved = self._offline_error - self._corrected_error
        deviation = sqrt(max(0.0, self._saved_squared - saved * saved) * _ERROR_RATE / 2.0)
        return saved > max(_MARGIN * self._offline_error, _CONFIDENCE * deviation)

    def _update(self, inputs: list[float], error: float) -> None:
        """One step of recursive least squares; the noise is the typical deviation squared."""
        covariance, indices = self._covariance, range(3)
        noise = max(self._deviation, 0.02) ** 2
        spread = [sum(covariance[i][j] * inputs[j] for j in indices) for i in indices]
        denominator = noise * self._forgetting + sum(inputs[i] * spread[i] for i in indices)
        gain = [value / denominator for value in spread]
        for i in indices:
            self.factors[i] = max(0.05, self.factors[i] + gain[i] * error)
        for i in indices:
            for j in indices:
                covariance[i][j] = (covariance[i][j] - gain[i] * spread[j]) / self._forgetting
        largest = max(covariance[i][i] for i in indices)
        if largest > _PRIOR_VARIANCE:  # directions no step has looked at must not grow without bound
            shrink = _PRIOR_VARIANCE / largest
            self._covariance = [[value * shrink for value in row] for row in covariance]


def _prior() -> list[list[float]]:
    return [[_PRIOR_VARIANCE if i == j else 0.0 for j in range(3)] for i in range(3)]


def _weighted(factors: list[float], parts: list[float] | tuple[float, float, float]) -> float:
    return factors[0] * parts[0] + factors[1] * parts[1] + factors[2] * parts[2]
