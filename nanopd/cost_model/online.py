"""The step model kept true while serving, by live steps.

Two things change. Slowly and for good: a device clocks down, another tenant shares its memory; each of the offline prediction's four parts (tokens
of steps without and with prompts, prompt attention, context reading) gets a factor, 1 at first, by recursive least squares. And all at once for a
while: neighbours of a CPU worker come and go, so that steps say much about the next ones' *pace*, measured over predicted time; that is smoothed over
a few steps.

Either is used only while it has lately predicted what the next heartbeat told better than doing without, clearly: on stationary data it cannot make
predictions worse. One model is for all workers of a cluster: they are alike, and plans that weigh one against another need one measure.
"""

from collections.abc import Sequence
from math import exp, log, sqrt

import msgspec

from nanopd.cost_model.features import StepFeatures
from nanopd.cost_model.step_model import StepModel
from nanopd.messages import StepTiming

_NUM_PARTS = 4
_LEARNT_STEPS = 8  # of a heartbeat's, at most
_PRIOR_VARIANCE = 0.05  # of a factor: 1 plus or minus a fifth
_PACE_GAIN = 0.3  # what a step's error moves the pace by: the last three count
_OUTLIER = 5.0  # typical deviations from which a step is one
_MAX_OUTLIERS = 8  # in a row: then the world has changed
_ERROR_RATE = 0.02  # of the running errors' means
_RATIO_RATE = 0.1  # of the ratio's mean over heartbeats
_MARGIN = 0.1  # share of the incumbent's error that a challenger must have saved,
_CONFIDENCE = 2.0  # and by that many standard errors,
_WORTHWHILE = 0.002  # and so much of a step's time


class StepFit(msgspec.Struct, frozen=True):
    """How well a worker's steps are predicted, for who watches."""

    num_steps: int  # learnt from
    error: float  # mean relative error of late
    offline_error: float  # the same of the profile alone
    ratio: float  # measured over what the profile says, of late


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
        self.is_won = saved > max(_WORTHWHILE, _MARGIN * self.incumbent, _CONFIDENCE * deviation)


class OnlineStepModel:
    """Predicts as ``StepModel`` does; ``learn`` teaches it. About a microsecond a prediction, 30 a step learnt."""

    def __init__(self, offline: StepModel, forgetting: float = 0.995) -> None:
        if not 0.5 < forgetting <= 1.0:
            raise ValueError(f"forgetting must be in (0.5, 1], got {forgetting}")
        self.offline = offline
        self.factors = [1.0] * _NUM_PARTS
        self.num_observed = self.num_outliers = 0
        self.ratio = 1.0  # measured over predicted of late, outliers included
        self.is_corrected = False  # predictions use the factors
        self.pace = 1.0  # what predictions are multiplied with, for now
        self.offline_ratio = 1.0  # measured over what the profile says
        self._log_pace = 0.0
        self._forgetting = forgetting
        self._covariance = _prior()
        self._by_factors, self._by_pace = _Contest(), _Contest()
        self._deviation = 0.1  # typical |error| of corrected predictions, relative
        self._outliers_in_a_row = 0
        self._offline_ms = offline.predict_ms
        self._apply()

    @property
    def fit(self) -> StepFit:
        contest = self._by_pace
        error = contest.challenger if contest.is_won else contest.incumbent
        return StepFit(self.num_observed, error, self._by_factors.incumbent, self.offline_ratio)

    def predict_ms(self, f: StepFeatures) -> float:
        """The median time of a step, milliseconds, as things are now."""
        ms = self._offline_ms(f)
        if f.num_prefill_tokens:
            scale, attention, context = self._prompts
            return scale * ms + attention * f.prefill_attention + context * f.decode_context
        scale, context = self._decodes
        return scale * ms + context * f.decode_context

    def learn(self, steps: Sequence[StepTiming]) -> None:
        """From what a heartbeat tells of: all steps if they are few, some of many. Steps far off are left out, unless they keep coming."""
        some = steps[:: max(1, -(-len(steps) // _LEARNT_STEPS))]
        if predicted_ms := sum(self.predict_ms(StepFeatures.of_timing(timing)) for timing in some):
            measured_ms = sum(timing.step_ms for timing in some)
            self.ratio += _RATIO_RATE * (measured_ms / predicted_ms - self.ratio)
        pace = exp(self._log_pace)  # as it was before the heartbeat: later steps of it are no test
        for timing in some:
            self._learn(timing, pace)
        self.is_corrected = self._by_factors.is_won
        self.pace = exp(self._log_pace) if self._by_pace.is_won else 1.0
        self._apply()

    def _apply(self) -> None:
        """Puts the correction in the form that is quickest to apply: of the offline prediction, of attention and context beside it."""
        factors = self.factors if self.is_corrected else [1.0] * _NUM_PARTS
        decodes, prompts, attention, context = [self.pace * factor for factor in factors]
        terms = self.offline.terms
        self._decodes = decodes, (context - decodes) * terms.context_ms
        self._prompts = prompts, (attention - prompts) * terms.attention_ms, (context - prompts) * terms.context_ms

    def _learn(self, timing: StepTiming, pace: float) -> None:
        parts = self.offline.parts_ms(StepFeatures.of_timing(timing))
        if sum(parts) <= 0.0 or timing.step_ms <= 0.0:
            return
        inputs = [part / timing.step_ms for part in parts]  # errors are relative to the measurement
        corrected, offline = _weighted(self.factors, inputs), sum(inputs)
        self.num_observed += 1
        if self._is_outlier(1.0 - corrected):
            return
        lasting = corrected if self.is_corrected else offline
        self.offline_ratio += _ERROR_RATE * (1.0 / offline - self.offline_ratio)
        self._by_factors.note(1.0 - offline, 1.0 - corrected)
        self._by_pace.note(1.0 - lasting, 1.0 - lasting * pace)
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

    def _update(self, inputs: Sequence[float], error: float) -> None:
        """One step of recursive least squares; the noise is the typical deviation squared."""
        covariance, forgetting = self._covariance, self._forgetting
        noise = max(self._deviation, 0.02) ** 2
        spread = [_weighted(row, inputs) for row in covariance]
        denominator = noise * forgetting + _weighted(inputs, spread)
        gain = [value / denominator for value in spread]
        self.factors = [max(0.05, factor + g * error) for factor, g in zip(self.factors, gain, strict=True)]
        rows = zip(covariance, gain, strict=True)
        grown = [[(c - g * s) / forgetting for c, s in zip(row, spread, strict=True)] for row, g in rows]
        largest = max(row[i] for i, row in enumerate(grown))
        if largest > _PRIOR_VARIANCE:  # directions no step has looked at must not grow without bound
            shrink = _PRIOR_VARIANCE / largest
            grown = [[value * shrink for value in row] for row in grown]
        self._covariance = grown


def _prior() -> list[list[float]]:
    return [[_PRIOR_VARIANCE if i == j else 0.0 for j in range(_NUM_PARTS)] for i in range(_NUM_PARTS)]


def _weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    (a, b, c, d), (w, x, y, z) = values, weights
    return w * a + x * b + y * c + z * d
