"""Shorthand for declaring tables: the metadata without a schema, and the few kinds of column we use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import TIMESTAMP, BigInteger, CheckConstraint, Column, Identity, MetaData, text
from sqlalchemy.types import TypeEngine

__all__ = ["TIME", "check", "col", "metadata", "opt", "serial", "vacuum_after"]

metadata = MetaData()
"""All our tables, without a schema; ``state.tables.metadata_for`` gives them one."""
TIME = TIMESTAMP(timezone=True)
_Kind = type[TypeEngine[Any]] | TypeEngine[Any]


def col(name: str, kind: _Kind, default: str | None = None) -> Column[Any]:
    """A column that is never null; ``default`` is SQL."""
    # without autoincrement=False a lone integer key would get a sequence
    default_sql = None if default is None else text(default)
    return Column(name, kind, nullable=False, server_default=default_sql, autoincrement=False)


def opt(name: str, kind: _Kind) -> Column[Any]:
    """A column that may be null."""
    return Column(name, kind, nullable=True)


def serial(name: str, kind: _Kind = BigInteger, *, key: bool = True) -> Column[Any]:
    """A number that the database gives; the primary key unless ``key`` is false."""
    return Column(name, kind, Identity(always=True), primary_key=key, nullable=False)


def check(name: str, condition: str) -> CheckConstraint:
    """A named CHECK constraint."""
    return CheckConstraint(condition, name=name)


def vacuum_after(rows: int, *, throttled: bool = False) -> dict[str, int]:
    """Storage parameters of small tables that churn: vacuum after so many dead rows, by default at full speed."""
    parameters = {"autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": rows}
    return parameters if throttled else {**parameters, "autovacuum_vacuum_cost_delay": 0}
