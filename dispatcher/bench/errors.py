"""What makes a measurement impossible."""

from __future__ import annotations

from dispatcher.errors import DispatcherError

__all__ = ["BenchError"]


class BenchError(DispatcherError):
    """Nothing was measured; the text says why and what to do."""
