"""What health shows of itself: frozen values for status, tests and people. Nobody decides by them."""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.samples import Sample


@dataclass(frozen=True, slots=True)
class HealthView:
    """Everything at one instant. `sample` is None until the first one was taken."""

    sample: Sample | None = None
