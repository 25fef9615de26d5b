"""What every endpoint needs."""

from dataclasses import dataclass

from nanopd.config import ServerConfig
from nanopd.errors import UnknownModelError
from nanopd.runtime.generation import Generator


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One served model."""

    generator: Generator
    config: ServerConfig
    model_name: str
    started_at: int  # seconds since the epoch

    def check_model(self, name: str | None) -> None:
        """Raises UnknownModelError if the client wants another model than the served one; leaving it out is fine."""
        if name is not None and name != self.model_name:
            raise UnknownModelError(f"model must be {self.model_name!r}, got {name!r}", "model")
