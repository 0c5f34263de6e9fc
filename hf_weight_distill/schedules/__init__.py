"""Schedules: what happens to a student's weights while it trains. One module each, one line here each."""

from typing import Any

from .base import Schedule
from .magnitude_pruning import MagnitudePruning

SCHEDULES: dict[str, type[Schedule]] = {
    "magnitude_pruning": MagnitudePruning,
}


def build_schedules(settings: dict[str, dict[str, Any]], linear: dict[str, tuple[str, ...]]) -> list[Schedule]:
    """Schedules by name with their options.

    Args:
        settings: ``{name: options}``.
        linear: ``{path of a class: parameter names}`` of the attention and feed-forward matrices.

    Raises:
        ValueError: an unknown name or option.
    """
    unknown = sorted(set(settings) - set(SCHEDULES))
    if unknown:
        raise ValueError(f"unknown schedules {', '.join(unknown)}; known: {', '.join(SCHEDULES) or 'none'}")
    for name, options in settings.items():
        wrong = sorted(set(options) - set(SCHEDULES[name].options))
        if wrong:
            known = ", ".join(SCHEDULES[name].options)
            raise ValueError(f"the schedule {name} has no option {', '.join(wrong)}; known: {known}")
    return [SCHEDULES[name](linear, **options) for name, options in settings.items()]


__all__ = ["SCHEDULES", "MagnitudePruning", "Schedule", "build_schedules"]
