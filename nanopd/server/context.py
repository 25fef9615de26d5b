"""What every endpoint needs."""

from dataclasses import dataclass

from nanopd.config import ServerConfig
from nanopd.errors import InvalidRequestError, UnknownModelError
from nanopd.runtime.generation import Generator


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One served model."""

    generator: Generator
    config: ServerConfig
    model_name: str
    started_at: int  # seconds since the epoch

    def check_size(self, num_choices: int) -> None:
        """Raises InvalidRequestError for a call that no empty queue could take: retrying would not help."""
        limit = self.generator.controller.cluster_config.max_queued_requests
        if num_choices > limit:
            raise InvalidRequestError(
                f"prompts times n must be at most {limit} choices in all, got {num_choices}", "prompt"
            )

    def check_model(self, name: str | None) -> None:
        """Raises UnknownModelError if the client wants another model than the served one; leaving it out is fine."""
        if name is not None and name != self.model_name:
            raise UnknownModelError(f"model must be {self.model_name!r}, got {name!r}", "model")
