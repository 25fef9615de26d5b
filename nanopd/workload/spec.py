"""One request of a workload."""

from dataclasses import dataclass

from nanopd.request import Slo

PREFIX_BLOCK = 512  # prompt tokens that one prefix hash stands for, as in the Mooncake traces


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """What a client asks for, and how long the answer will turn out (only an oracle knows that beforehand)."""

    arrival_s: float  # after the workload's start
    num_prompt_tokens: int
    num_output_tokens: int
    max_tokens: int  # what the client allows
    tenant: str = ""
    slo: Slo = Slo()
    prefix_hashes: tuple[int, ...] = ()  # one for every 512 prompt tokens; equal leading hashes are equal prompt starts
    priority: int = 0  # lower runs first

    def __post_init__(self) -> None:
        if self.num_prompt_tokens < 1 or not 1 <= self.num_output_tokens <= self.max_tokens:
            raise ValueError(
                "a request needs num_prompt_tokens >= 1 and 1 <= num_output_tokens <= max_tokens, got "
                f"{self.num_prompt_tokens}, {self.num_output_tokens} and {self.max_tokens}"
            )
