"""The requests of an app that concern many tasks at once, chosen by filters.  A part of ``Dispatcher``."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Unpack, overload

from dispatcher.awaiting import written
from dispatcher.bulk import Action, Bulk, BulkAnswer, BulkFilters
from dispatcher.installation import Installation
from dispatcher.tx import AsyncTx, SyncTx

__all__ = ["Many"]

Awaitably = Coroutine[Any, Any, BulkAnswer]


class Many:
    """``retry_many``, ``cancel_many``, ``delete_many``.

    All take filters (see ``BulkFilters``), of which at least one must be given, ``dry_run`` to only count, and
    ``actor`` for the audit trail.  They work in batches of 500: on an autocommit psycopg connection each batch commits
    by itself, inside the caller's transaction nothing holds before its commit.  Raise ``OptionError``.
    """

    _home: Installation

    @overload
    def retry_many(
        self, tx: SyncTx, /, *, actor: str | None = None, dry_run: bool = False, **filters: Unpack[BulkFilters]
    ) -> BulkAnswer: ...
    @overload
    def retry_many(
        self, tx: AsyncTx, /, *, actor: str | None = None, dry_run: bool = False, **filters: Unpack[BulkFilters]
    ) -> Awaitably: ...
    def retry_many(self, tx: Any, /, *, actor: str | None = None, dry_run: bool = False, **filters: Any) -> Any:
        """Run matching failed and cancelled tasks again from the start."""
        return self._many(tx, "retry", filters, actor, dry_run)

    @overload
    def cancel_many(
        self, tx: SyncTx, /, *, actor: str | None = None, dry_run: bool = False, **filters: Unpack[BulkFilters]
    ) -> BulkAnswer: ...
    @overload
    def cancel_many(
        self, tx: AsyncTx, /, *, actor: str | None = None, dry_run: bool = False, **filters: Unpack[BulkFilters]
    ) -> Awaitably: ...
    def cancel_many(self, tx: Any, /, *, actor: str | None = None, dry_run: bool = False, **filters: Any) -> Any:
        """Cancel matching tasks that have not ended: waiting ones at once, running ones are asked to stop."""
        return self._many(tx, "cancel", filters, actor, dry_run)

    @overload
    def delete_many(
        self, tx: SyncTx, /, *, actor: str | None = None, dry_run: bool = False, **filters: Unpack[BulkFilters]
    ) -> BulkAnswer: ...
    @overload
    def delete_many(
        self, tx: AsyncTx, /, *, actor: str | None = None, dry_run: bool = False, **filters: Unpack[BulkFilters]
    ) -> Awaitably: ...
    def delete_many(self, tx: Any, /, *, actor: str | None = None, dry_run: bool = False, **filters: Any) -> Any:
        """Remove matching tasks that have ended, with their history, errors, results, tags and keys, for good.

        A row in the table ``deletions`` says who removed how many by which filter.
        """
        return self._many(tx, "delete", filters, actor, dry_run)

    def _many(self, tx: Any, action: Action, filters: dict[str, Any], actor: str | None, dry_run: bool) -> Any:
        bulk = Bulk(action, filters, actor=actor, dry_run=dry_run, schema=self._home.schema)
        return written(tx, f"{action}_many", bulk.run)
