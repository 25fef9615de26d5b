"""The step model kept true while serving, by live steps.

Two things change. Slowly and for good: a device clocks down, another tenant shares its memory; each of the offline prediction's three parts (tokens,
prompt attention, context reading) gets a factor, 1 at first, by recursive least squares. And all at once for a while: neighbours of a CPU worker
come and go, so that a step says much about the next one's *pace*, measured over predicted time; that is smoothed over a few steps.

Either is used only while it has lately predicted better than doing without, clearly: on stationary data it cannot make predictions worse.
"""

from math import exp, log, sqrt

from nanopd.cost_model.features import StepFeatures
from nanopd.cost_model.step_model import StepModel
from nanopd.messages import StepTiming

_PRIOR_VARIANCE = 0.05  # of a factor: 1 plus or minus a fifth
_PACE_GAIN = 0.2  # what a step's error moves the pace by: the last five count
_OUTLIER = 5.0  # typical deviations from which a step is one
_MAX_OUTLIERS = 8  # in a row: then the world has changed
_ERROR_RATE = 0.02  # of the running errors' means
_MARGIN = 0.1  # share of the incumbent's error that a challenger must have saved,
_CONFIDENCE = 2.0  # and by that many standard errors


class _Contest:
    """Running errors of two predictors of the same steps."""

    __slots__ = ("_saved_squared", "challenger", "incumbent", "is_won")

    def __init__(self) -> None:
        self.incumbent = self.challenger = 0.0  # mean relative errors of late
        self.is_won = False  # by the challenger, clearly
        self._saved_squared = 0.0  # mean square of what the challenger saved of each step's error

    def note(self, incumbent: float, challenger: float) -> None:
        """The relative errors of a step."""
        ours, theirs = abs(challenger), abs(incumbent)
        self.incumbent += _ERROR_RATE * (theirs - self.incumbent)
        self.challenger += _ERROR_RATE * (ours - self.challenger)
        self._saved_squared += _ERROR_RATE * ((theirs - ours) ** 2 - self._saved_squared)
        saved = self.incumbent - self.challenger
        deviation = sqrt(max(0.0, self._saved_squared - saved * saved) * _ERROR_RATE / 2.0)
        self.is_won = saved > max(_MARGIN * self.incumbent, _CONFIDENCE * deviation)


class OnlineStepModel:
    """Predicts as ``StepModel`` does; ``observe`` teaches it. About 2 microseconds a prediction, 50 an observation."""

    def __init__(self, offline: StepModel, forgetting: float = 0.995) -> None:
        if not 0.5 < forgetting <= 1.0:
            raise ValueError(f"forgetting must be in (0.5, 1], got {forgetting}")
        self.offline = offline
        self.factors = [1.0, 1.0, 1.0]
        self.num_observed = self.num_outliers = 0
        self._log_pace = 0.0
        self._forgetting = forgetting
        self._covariance = _prior()
        self._by_factors, self._by_pace = _Contest(), _Contest()
        self._deviation = 0.1  # typical |error| of corrected predictions, relative
        self._outliers_in_a_row = 0

    @property
    def is_corrected(self) -> bool:
        """Whether predictions use the factors."""
        return self._by_factors.is_won

    @property
    def pace(self) -> float:
        """What predictions are multiplied with, for now."""
        return exp(self._log_pace) if self._by_pace.is_won else 1.0

    @property
    def error(self) -> float:
        """Mean relative error of late, of the predictions in use."""
        return self._by_pace.challenger if self._by_pace.is_won else self._by_pace.incumbent

    def predict_ms(self, f: StepFeatures) -> float:
        lasting = _weighted(self.factors, self.offline.parts_ms(f)) if self.is_corrected else self.offline.predict_ms(f)
        return lasting * self.pace

    def quantile_ms(self, f: StepFeatures, q: float) -> float:
        """The offline quantile, moved by the same factor as the median."""
        predicted = self.offline.predict_ms(f)
        return self.offline.quantile_ms(f, q) * (self.predict_ms(f) / predicted if predicted else 1.0)

    def observe(self, timing: StepTiming) -> None:
        """Learns from a live step. Steps far off are left out, unless they keep coming."""
        parts = self.offline.parts_ms(StepFeatures.of_timing(timing))
        if sum(parts) <= 0.0 or timing.step_ms <= 0.0:
            return
        inputs = [part / timing.step_ms for part in parts]  # errors are relative to the measurement
        corrected, offline = _weighted(self.factors, inputs), sum(inputs)
        self.num_observed += 1
        if self._is_outlier(1.0 - corrected):
            return
        lasting = corrected if self.is_corrected else offline
        self._by_factors.note(1.0 - offline, 1.0 - corrected)
        self._by_pace.note(1.0 - lasting, 1.0 - lasting * exp(self._log_pace))
        self._log_pace -= _PACE_GAIN * (log(lasting) + self._log_pace)
        self._update(inputs, 1.0 - corrected)

    def _is_outlier(self, error: float) -> bool:
        if abs(error) > _OUTLIER * self._deviation:
            self._outliers_in_a_row += 1
            self.num_outliers += 1
            if self._outliers_in_a_row <= _MAX_OUTLIERS:
                return True
            self._deviation = abs(error)
            self._covariance = _prior()
        self._outliers_in_a_row = 0
        self._deviation = max(self._deviation + 0.05 * (abs(error) - self._deviation), 0.005)
        return False

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
