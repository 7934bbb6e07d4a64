"""Tests of losses and of every fate again: the fleet's processes reach the database by way of a pooler."""

from __future__ import annotations

from uuid import uuid4

import pytest

from dispatcher.settings import Settings
from tests.fixtures.pooler import Pooler
from tests.fixtures.servers import Servers
from tests.integration.test_effects import (
    bank,
    test_a_commit_whose_answer_was_lost_is_read_again,
    test_a_stale_attempts_transaction_rolls_back_whole,
    test_every_kind_of_session_commits_with_the_task,
)
from tests.integration.test_flows import (
    flows,
    test_a_graph_follows_its_rules,
    test_handlers_wait_for_children_without_a_slot,
)
from tests.integration.test_kinds import _app, test_every_fate_in_every_kind_of_execution
from tests.integration.test_worker_loss import (
    _short_lease,
    test_a_claim_whose_answer_is_lost_is_adopted,
    test_a_settle_whose_answer_is_lost_counts_once,
    test_many_workers_killed_at_random_lose_nothing,
    test_who_waits_hears_of_a_settle_whose_answer_was_lost,
)

__all__ = [
    "_app",
    "_short_lease",
    "bank",
    "flows",
    "settings",
    "test_a_claim_whose_answer_is_lost_is_adopted",
    "test_a_commit_whose_answer_was_lost_is_read_again",
    "test_a_graph_follows_its_rules",
    "test_a_settle_whose_answer_is_lost_counts_once",
    "test_a_stale_attempts_transaction_rolls_back_whole",
    "test_every_fate_in_every_kind_of_execution",
    "test_every_kind_of_session_commits_with_the_task",
    "test_handlers_wait_for_children_without_a_slot",
    "test_many_workers_killed_at_random_lose_nothing",
    "test_who_waits_hears_of_a_settle_whose_answer_was_lost",
]


@pytest.fixture
def settings(servers: Servers, pooler: Pooler) -> Settings:
    """Those of an installation behind the pooler."""
    direct = Settings(database_url=pooler.direct_url, nats_url=servers.nats_url, namespace=f"t{uuid4().hex[:12]}")
    return pooler.settings(direct)
