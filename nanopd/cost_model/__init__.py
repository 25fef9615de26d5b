"""What steps and transfers cost on this hardware.

``StepModel`` says how long a step takes (``features`` are what it looks at, ``fit`` makes one from measurements, ``online`` keeps it true while
serving), ``TransferModel`` how long KV is on its way, ``HardwareProfile`` keeps both in a JSON file. Nothing here measures; ``nanopd.profiler`` does.
"""

from nanopd.cost_model.derive import original_parameters
from nanopd.cost_model.features import StepFeatures, StepSample
from nanopd.cost_model.fit import Ladders, fit_step_model, median_error
from nanopd.cost_model.online import OnlineStepModel, StepFit
from nanopd.cost_model.original import OriginalParameters
from nanopd.cost_model.profile import HardwareProfile, bundled, bundled_names
from nanopd.cost_model.step_model import StepModel, StepPredictor, StepTerms
from nanopd.cost_model.transfer import TransferModel

__all__ = [
    "HardwareProfile",
    "Ladders",
    "OnlineStepModel",
    "OriginalParameters",
    "StepFeatures",
    "StepFit",
    "StepModel",
    "StepPredictor",
    "StepSample",
    "StepTerms",
    "TransferModel",
    "bundled",
    "bundled_names",
    "fit_step_model",
    "median_error",
    "original_parameters",
]
