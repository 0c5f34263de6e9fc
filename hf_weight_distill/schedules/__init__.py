"""Schedules: what happens to a student's weights while it trains. One module each, one line here each."""

from typing import Any

from ..config import check_names, options_of
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
    check_names("schedules", settings, SCHEDULES)
    for name, options in settings.items():
        check_names(f"schedule {name!r}", options, options_of(SCHEDULES[name]))
    return [SCHEDULES[name](linear, **options) for name, options in settings.items()]


__all__ = ["SCHEDULES", "MagnitudePruning", "Schedule", "build_schedules"]
