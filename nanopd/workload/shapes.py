"""How long prompts and outputs are, who asks, and what the prompts share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from random import Random
from typing import Protocol

from nanopd.request import Slo
from nanopd.workload.spec import PREFIX_BLOCK


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request without its arrival. ``prefix_hashes`` may cover only the shared start; the generator makes the rest unique."""

    num_prompt_tokens: int
    num_output_tokens: int
    max_tokens: int
    tenant: str = ""
    slo: Slo = Slo()
    prefix_hashes: tuple[int, ...] = ()
    priority: int = 0


class Shape(Protocol):
    """Draws one request after the other."""

    def draw(self, rng: Random) -> Drawn: ...


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal length, clipped."""

    median: float
    sigma: float  # of the logarithm
    low: int
    high: int

    def draw(self, rng: Random) -> int:
        return max(self.low, min(self.high, round(rng.lognormvariate(log(self.median), self.sigma))))


@dataclass(frozen=True, slots=True)
class UniformShape:
    """The original's: prompts uniform in one of ``ranges`` (each as likely), every output as long as the cap."""

    ranges: tuple[tuple[int, int], ...]
    max_tokens: int = 128

    def draw(self, rng: Random) -> Drawn:
        low, high = rng.choice(self.ranges)
        return Drawn(rng.randint(low, high), self.max_tokens, self.max_tokens)


@dataclass(frozen=True, slots=True)
class LogNormalShape:
    """Prompts and outputs log-normal and independent; outputs end at the cap."""

    prompt: Lengths
    output: Lengths
    max_tokens: int
    tenant: str = ""
    slo: Slo = Slo()
    priority: int = 0

    def draw(self, rng: Random) -> Drawn:
        output = min(self.output.draw(rng), self.max_tokens)
        return Drawn(self.prompt.draw(rng), output, self.max_tokens, self.tenant, self.slo, (), self.priority)


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """Draws from one of several shapes, by weight."""

    shapes: tuple[Shape, ...]
    weights: tuple[float, ...]

    def draw(self, rng: Random) -> Drawn:
        return rng.choices(self.shapes, self.weights)[0].draw(rng)


@dataclass(slots=True)
class AgenticShape:
    """Agents in the middle of tasks: each turn sends the whole session again, longer by the last answer and a tool's result.

    Sessions of one agent share its system prompt. Every turn but the first finds its prefix where the turn before ran.
    """

    num_agents: int = 8
    num_sessions: int = 64  # at any time
    system_tokens: int = 4 * PREFIX_BLOCK
    growth: Lengths = Lengths(300, 1.0, 16, 4000)
    output: Lengths = Lengths(80, 0.8, 4, 1024)
    num_turns: int = 10
    max_context: int = 24_576
    _sessions: dict[int, "_Session"] = field(default_factory=dict)

    def draw(self, rng: Random) -> Drawn:
        slot = rng.randrange(self.num_sessions)
        session = self._sessions.get(slot)
        if session is None or session.turn >= self.num_turns or session.num_tokens > self.max_context:
            agent = rng.randrange(self.num_agents)
            shared = tuple(_agent_hash(agent, i) for i in range(self.system_tokens // PREFIX_BLOCK))
            session = self._sessions[slot] = _Session(agent, self.system_tokens, list(shared))
        session.turn += 1
        session.num_tokens += self.growth.draw(rng)
        while len(session.hashes) * PREFIX_BLOCK < session.num_tokens:
            session.hashes.append(rng.getrandbits(62))
        output = self.output.draw(rng)
        drawn = Drawn(
            session.num_tokens, output, self.output.high, f"agent-{session.agent}", Slo(), tuple(session.hashes)
        )
        session.num_tokens += output
        return drawn


@dataclass(slots=True)
class _Session:
    agent: int
    num_tokens: int
    hashes: list[int]
    turn: int = 0


def _agent_hash(agent: int, index: int) -> int:
    return (1 << 63) | (agent << 20) | index


def _mixed_slo() -> MixtureShape:
    """Three tenants: chat wants a quick start and a steady flow, code completion only a quick start, summaries only throughput."""
    chat = LogNormalShape(Lengths(250, 1.0, 8, 4096), Lengths(200, 0.9, 4, 2048), 1024, "chat", Slo(500.0, 30.0))
    code = LogNormalShape(Lengths(1500, 0.8, 64, 8192), Lengths(24, 0.8, 1, 256), 256, "code", Slo(300.0, 60.0))
    digest = LogNormalShape(
        Lengths(6000, 0.6, 512, 16_384), Lengths(300, 0.5, 16, 1024), 1024, "digest", Slo(10_000.0, 100.0), 1
    )
    return MixtureShape((chat, code, digest), (0.5, 0.3, 0.2))


# The first three are the original's; ShareGPT-like medians and spreads are close to the published averages (some 280 in, 250 out).
SHAPES: dict[str, Callable[[], Shape]] = {
    "short": lambda: UniformShape(((64, 256),)),
    "long": lambda: UniformShape(((1024, 2048),)),
    "mixed": lambda: UniformShape(((64, 256), (1024, 2048))),
    "sharegpt": lambda: LogNormalShape(Lengths(120, 1.3, 4, 4096), Lengths(140, 1.1, 2, 2048), 1024),
    "long-context": lambda: LogNormalShape(Lengths(8192, 0.7, 2048, 32_000), Lengths(200, 0.8, 8, 1024), 1024),
    "agentic": AgenticShape,
    "mixed-slo": _mixed_slo,
}


def make_shape(name: str) -> Shape:
    """A fresh shape of ``SHAPES``. Raises ValueError."""
    if name not in SHAPES:
        raise ValueError(f"workload must be one of {', '.join(SHAPES)}, got {name!r}")
    return SHAPES[name]()
