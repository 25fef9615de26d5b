"""The HTTP door."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Options of ``nanopd serve`` that concern HTTP only."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None  # required as a bearer token when set
    served_model_name: str | None = None  # None: the model argument
    max_body_bytes: int = 8 << 20
    max_n: int = 16  # completions per prompt
    max_prompts: int = 256  # prompts in one /v1/completions call
    drain_timeout_s: int = 30  # how long requests under way may go on after SIGTERM
    otlp_endpoint: str | None = None  # OTLP/HTTP, where spans of requests go; None: no spans are made
