"""Work written once for every kind of session: a generator that yields statements and is sent their rows."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeAlias, TypeVar

from state.sql import Sql

__all__ = ["Row", "Steps"]

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Steps: TypeAlias = Generator[tuple[Sql, Mapping[str, Any]], list[Row], T]
