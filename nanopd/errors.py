"""The exception tree of nanopd.

::

    NanoPDError
    |-- InvalidRequestError (ValueError)     the caller's request; the server answers 400 with the sentence
    |   |-- PromptTooLongError               prompt (+ one token) does not fit the model or the KV pool
    |   `-- UnknownModelError                no such model folder, file or hub name; the server answers 404
    |-- ConfigError (ValueError)             an option, topology or model file that cannot be used
    |   `-- UnsupportedModelError            an architecture, quantisation or rope scaling we do not implement
    |-- OverloadedError                      the queue bound is reached, or no plan would keep the objectives; 429 with Retry-After
    |-- RequestFailedError                   an accepted request ended in an error instead of tokens
    |-- WorkerError                          a worker process failed or was lost
    |-- TransferError                        a KV transfer failed, timed out, or its checksum differed
    `-- KernelCompileError                   NVRTC refused a kernel; carries the whole compiler log
"""


class NanoPDError(Exception):
    """Base of every error nanopd raises on purpose."""


class InvalidRequestError(NanoPDError, ValueError):
    """The caller's request is wrong. ``field`` names the offending parameter when there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PromptTooLongError(InvalidRequestError):
    """The prompt leaves no room for one generated token."""


class UnknownModelError(InvalidRequestError):
    """No model of that name."""


class ConfigError(NanoPDError, ValueError):
    """An option or a model file cannot be used."""


class UnsupportedModelError(ConfigError):
    """The model needs something nanopd does not implement."""


class OverloadedError(NanoPDError):
    """The engine's queue bound is reached, or it could not keep the request's objectives now; retry after ``retry_after_s`` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestFailedError(NanoPDError):
    """An accepted request ended in an error."""


class WorkerError(NanoPDError):
    """A worker process failed or was lost."""


class TransferError(NanoPDError):
    """A KV transfer failed."""


class KernelCompileError(NanoPDError):
    """A CUDA kernel did not compile; the message holds the compiler's whole log."""
