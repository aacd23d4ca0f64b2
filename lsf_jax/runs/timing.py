"""Seconds and counts of a run, added up over the processes that trained it."""

from collections.abc import Mapping
from typing import Any


def summed(before: Mapping[str, Any], seconds: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """A run's totals with its rates.

    Args:
      before: what the card has so far.
      seconds: of a process, by what they went into.
      counts: env steps and updates in `train_seconds`.
    """
    timing = {key: round(before.get(key, 0.0) + value, 3) for key, value in seconds.items()}
    timing |= {key: before.get(key, 0) + value for key, value in counts.items()}
    trained = max(timing["train_seconds"], 1e-9)
    rates = {f"{key}_per_second": timing[key] / trained for key in ("env_steps", "updates")}
    return timing | rates


def host_summed(
    before: Mapping[str, Mapping[str, float]], report: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Where the host's time went, in seconds, and what went wrong and was healed: a process's added to earlier."""
    return {
        part: {name: before.get(part, {}).get(name, 0) + value for name, value in values.items()}
        for part, values in report.items()
    }
