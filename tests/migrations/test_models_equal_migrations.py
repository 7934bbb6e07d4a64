"""The SQLAlchemy models and the migrations make the same tables."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from state.tables import metadata_for
from tests.migrations.catalog import TABLES_ONLY, catalog


def _engine(database_url: str) -> Engine:
    # a role called like our schema would make it the default schema, which alembic treats differently
    return create_engine(
        "postgresql+psycopg://" + database_url.partition("://")[2],
        connect_args={"options": "-csearch_path=public"},
        poolclass=NullPool,
    )


def test_alembic_finds_no_difference(database_url: str) -> None:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_schemas": True,
        "include_name": lambda name, kind, parents: kind != "schema" or name == "dispatcher",
        "version_table": "schema_version",
        "version_table_schema": "dispatcher",
    }
    with _engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata_for("dispatcher")) == []


def test_catalog_finds_no_difference(database_url: str) -> None:
    with _engine(database_url).begin() as connection:
        connection.execute(text("CREATE SCHEMA modelled"))
        metadata_for("modelled").create_all(connection)
    by_models = catalog(database_url, "modelled", TABLES_ONLY)
    by_migrations = catalog(database_url, "dispatcher", TABLES_ONLY)
    for part in TABLES_ONLY:
        assert by_models[part] == by_migrations[part], part
    assert len(by_migrations["columns"]) > 100, "an empty comparison proves nothing"
