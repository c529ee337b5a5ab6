"""How worker processes are looked after: the values, and when one is worn out."""

from __future__ import annotations

import random

from attrs import frozen

__all__ = ["NO_CARE", "Care", "Life"]

#: By how much `Care.max_age` is made longer at most, at random, so that not all workers leave at once.
AGE_JITTER = 0.1


@frozen
class Life:
    """What one worker gets: jobs, seconds, bytes; ``None`` for no limit."""

    jobs: int | None
    age: float | None
    memory: int | None

    def why_over(self, jobs: int, age: float, memory: int) -> str:
        """What it has had enough of, in words; ``""`` while there is nothing."""
        if self.jobs is not None and jobs >= self.jobs:
            return f"served {jobs} requests"
        if self.age is not None and age >= self.age:
            return f"served for {age:.0f} s"
        if self.memory is not None and memory >= self.memory:
            return f"grew to {memory:,} bytes"
        return ""


@frozen(kw_only=True)
class Care:
    """For `tricorn.supervision.Supervisor`; `tricorn.strategies.ProcessPool` says what each means, and checks it."""

    max_jobs: int | None = None
    jitter: int = 0
    max_age: float | None = None
    max_memory: int | None = None
    hang_timeout: float | None = None
    start_attempts: int = 5

    def draw(self) -> Life:
        """One worker's life."""
        jobs = None if self.max_jobs is None else self.max_jobs + random.randint(0, self.jitter)
        age = None if self.max_age is None else self.max_age * (1 + AGE_JITTER * random.random())
        return Life(jobs, age, self.max_memory)


NO_CARE = Care()
