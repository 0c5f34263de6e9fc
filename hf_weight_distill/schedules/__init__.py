"""Schedules: what happens to a student's weights while it trains. One module each, one line here each."""

from typing import Any

from .base import Schedule

SCHEDULES: dict[str, type[Schedule]] = {}


def build_schedules(settings: dict[str, dict[str, Any]], linear: dict[str, tuple[str, ...]]) -> list[Schedule]:
    """Schedules by name with their options.

    Args:
        settings: ``{name: options}``.
        linear: ``{path of a class: parameter names}`` of the attention and feed-forward matrices.

    Raises:
        ValueError: an unknown name.
    """
    unknown = sorted(set(settings) - set(SCHEDULES))
    if unknown:
        raise ValueError(f"unknown schedules {', '.join(unknown)}; known: {', '.join(SCHEDULES) or 'none'}")
    return [SCHEDULES[name](linear, **options) for name, options in settings.items()]


__all__ = ["SCHEDULES", "Schedule", "build_schedules"]
