"""When a worker that died is started again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Restart at once after a long life; after short ones wait longer each time, and give up in the end."""

    quick_death_s: float = 10.0  # a life shorter than this, or one that never was ready, is a quick death
    first_delay_s: float = 0.5
    max_quick_deaths: int = 3  # in a row


@dataclass(slots=True)
class Supervisor:
    """The deaths of one worker."""

    policy: RestartPolicy
    quick_deaths: int = 0

    def died(self, lived_s: float) -> float | None:
        """Notes a death, ``lived_s`` after the worker was ready (0: it never was). Returns seconds to wait before the next start, None: give up."""
        self.quick_deaths = self.quick_deaths + 1 if lived_s < self.policy.quick_death_s else 0
        if self.quick_deaths >= self.policy.max_quick_deaths:
            return None
        return self.policy.first_delay_s * 2 ** (self.quick_deaths - 1) if self.quick_deaths else 0.0
