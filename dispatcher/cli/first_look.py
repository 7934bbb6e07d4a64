"""The first look of a relay or worker at PostgreSQL: whether it is reached as the settings say, and the tables fit."""

from __future__ import annotations

import logging
import random
import re
import secrets
import time

import psycopg

from dispatcher.cli.options import require_database
from dispatcher.database import THROUGH_A_POOLER, connect_sync
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings
from state.migrate import check_schema_version

__all__ = ["look_at_database"]

_log = logging.getLogger("dispatcher.start")

_FULL = re.compile(r"too many (clients|connections)|connection slots|no more connections|connections exceeded")
"""What PostgreSQL and PgBouncer say when they are there and have no connection left; the code does not reach us."""
_MARK = "dispatcher.way"
_LONGEST_SECONDS = 5.0


def look_at_database(settings: Settings) -> None:
    """Return when the tables are there and fit; waits while every connection is taken.

    Raises ``ConfigurationError`` for a pooler that the settings know nothing of, ``SchemaError`` for tables that do not
    fit, ``psycopg.OperationalError`` when nobody answers.
    """
    require_database(settings)
    tries = 0
    while True:
        try:
            return _look(settings)
        except psycopg.OperationalError as error:
            if not _FULL.search(str(error)):
                raise
            _log.warning("PostgreSQL has no connection free, trying again: %s", str(error).strip().split("\n")[0])
            tries += 1
            time.sleep(random.uniform(0.02, min(_LONGEST_SECONDS, 0.1 * 2 ** min(tries, 10))))


def _look(settings: Settings) -> None:
    token = secrets.token_hex(8)
    with connect_sync(settings, "dispatcher start", **{_MARK: token}) as connection:
        if not settings.pooled:
            row = connection.execute(f"SELECT current_setting('{_MARK}', true)".encode()).fetchone()
            if row != (token,):  # somebody between us and PostgreSQL has swallowed what we asked for
                raise ConfigurationError(THROUGH_A_POOLER)
        check_schema_version(connection, settings.db_schema)
