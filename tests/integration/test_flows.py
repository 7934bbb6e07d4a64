"""Chains, groups and graphs on real servers: who runs, with what, and what becomes of those that wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher import Flow, group
from dispatcher.errors import FlowInvalid, TaskFailed
from dispatcher.handle import Task
from state.machine import Reason, State
from tests.fixtures import flow_apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.flow_apps import (
    add,
    app,
    blame,
    double,
    fail,
    flatten,
    hand_in_process,
    mark,
    secret_word,
    total,
    tripled,
    use_secret,
)
from tests.fixtures.patience import PATIENCE


@pytest.fixture
async def flows(fleet: Fleet) -> AsyncIterator[Fleet]:
    app.configure(fleet.settings)
    yield fleet
    await app.close()


async def working(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker(app, slots=8)


def enqueue(fleet: Fleet, composed: Any) -> Task[Any]:
    with fleet.connection.transaction():
        task: Task[Any] = composed.enqueue(fleet.connection)
    return task


def ends(fleet: Fleet, flow: Task[Any]) -> dict[str, str]:
    """Name or type of each task of a flow with its state and reason."""
    rows = fleet.rows(
        "SELECT coalesce(n.name, y.name) AS name, t.state, t.reason FROM dispatcher.flows f"
        " JOIN dispatcher.flow_nodes n ON n.flow_id = f.id JOIN dispatcher.tasks t ON t.id = n.node_id"
        " JOIN dispatcher.types y ON y.id = t.type_id WHERE f.root_id = %s ORDER BY n.pos",
        flow.id,
    )
    return {
        row["name"]: State(row["state"]).label + (f" {Reason(row['reason']).label}" if row["reason"] else "")
        for row in rows
    }


async def test_compositions_pass_results_to_any_depth(flows: Fleet) -> None:
    await working(flows)
    pair = group(add.call(1), double.call(5))
    for composed, result in (
        (add.call(1, b=2).then(double).then(add, b=10), 16),
        (pair, [2, 10]),
        (pair.then(total), 12),
        (pair.then(total).then(double), 24),
        (group(pair, group(add.call(2).then(double))).then(flatten).then(total), 18),
        (add.call(1).then_each(double, add), [4, 3]),
        (add.call(1).then_each(double, add).then(total).then(add), 8),
        (group(pair.then(total), add.call(0)).then(total), 13),
        (group((add.call(i) for i in range(4)), sequential=True).then(total), 10),
        (add.call(1).then(group(add.call(2), add.call(3))).then(total), 7),
        (add.call(1).on_success(mark.call("s")).on_failure(mark.call("f")).on_end(mark.call("e")).then(double), 4),
    ):
        task = enqueue(flows, composed)
        assert await task.wait(PATIENCE) == result, composed
        assert task.result(flows.connection) == result
    assert sorted(entry.value for entry in flows.ledger("mark")) == ["e None", "s None"]
    assert flows.count("flows", "state <> 6") == 0 and flows.count("tasks", "state = 8 AND reason = 16") == 1


async def test_a_child_process_takes_results_over_and_hands_over(flows: Fleet) -> None:
    await working(flows)
    chain = enqueue(flows, add.call(1).then(tripled).then(double))
    handed = enqueue(flows, hand_in_process.call(2))
    assert await chain.wait(PATIENCE) == 12 and await handed.wait(PATIENCE) == 12


async def test_a_deadline_holds_for_a_task_that_had_to_wait_for_others(flows: Fleet) -> None:
    task = enqueue(flows, add.call(1).then(double.options(deadline=0.05)))
    flows.connection.execute("SELECT pg_sleep(0.1)")
    await working(flows)
    with pytest.raises(TaskFailed):
        await task.wait(PATIENCE)
    assert list(ends(flows, task).values()) == ["succeeded", "failed deadline"]


async def test_a_failure_ends_those_that_need_it_and_starts_those_that_wait_for_it(flows: Fleet) -> None:
    await working(flows)
    chain = enqueue(flows, add.call(1).then(fail).then(double).then(add).on_failure(mark.call("undo")))
    with pytest.raises(TaskFailed, match="3 of 5 parts did not succeed"):
        await chain.wait(PATIENCE)
    assert ends(flows, chain) == {
        "add": "failed dependency_failed",
        "fail": "failed exhausted",
        "double": "failed dependency_failed",
        "mark": "succeeded",
    }
    partly = enqueue(flows, group(add.call(1), fail.call(), double.call(2)).then(total))
    with pytest.raises(TaskFailed):
        await partly.wait(PATIENCE)
    states = flows.rows("SELECT kind, state FROM dispatcher.flows WHERE root_id = %s ORDER BY id", partly.id)
    assert [(row["kind"], row["state"]) for row in states] == [(1, 7), (2, 9)]  # a group may succeed in part
    assert ends(flows, partly)["total"] == "failed dependency_failed"


async def test_a_graph_follows_its_rules(flows: Fleet) -> None:
    await working(flows)
    flow = Flow("rules")
    flow.add("a", add.call(1)).add("bad", fail.call())
    flow.add("sum", add.partial(), takes={"a": "a", "b": "twice"})
    flow.add("twice", double.partial(), takes={"a": "a"})
    flow.add("anyway", mark.partial("anyway"), takes={"a": "bad"}, ignore=["bad"])
    flow.add("blame", blame.partial(), takes={"failure": "bad"}, on_failure=["bad"])
    flow.add("never", mark.call("never"), on_failure=["a"])
    flow.add("after never", mark.call("after never"), after=["never"])
    flow.add("needs", mark.call("needs"), after=["bad"])
    flow.add("if two", mark.call("two"), when={"a": 2})
    flow.add("if three", mark.call("three"), when={"a": 3})
    task = enqueue(flows, flow)
    with pytest.raises(TaskFailed, match="2 of 11"):
        await task.wait(PATIENCE)
    assert ends(flows, task) == {
        "a": "succeeded",
        "bad": "failed exhausted",
        "sum": "succeeded",
        "twice": "succeeded",
        "anyway": "succeeded",
        "blame": "succeeded",
        "never": "cancelled skipped",
        "after never": "cancelled skipped",
        "needs": "failed dependency_failed",
        "if two": "succeeded",
        "if three": "cancelled skipped",
    }
    assert flows.ledger("blame")[0].value == "fail exhausted ValueError: as asked"
    assert sorted(entry.value for entry in flows.ledger("mark")) == ["anyway None", "two None"]
    for text in ('"é\\' * 10, "x" * 8188, "x" * 8200):  # with the claim, just so, and read when it starts
        assert await enqueue(flows, flow_apps.say.call(text).then(flow_apps.say)).wait(PATIENCE) == text
    good = Flow("good")
    good.add("a", add.call(1)).add("b", double.partial(), takes={"a": "a"})
    assert await enqueue(flows, good).wait(PATIENCE) == {"a": 2, "b": 4}


async def test_chains_and_groups_are_parts_of_graphs(flows: Fleet) -> None:
    await working(flows)
    flow = Flow("nested").add("a", add.call(1))
    flow.add("both", group(add.call(5), add.call(6).then(double)), after=["a"])
    flow.add("sum", total.partial(), takes={"numbers": "both"})
    flow.add("bad", fail.call().then(add), ignore=["both"])
    flow.add("undo", mark.call("undo").then(mark.call("undone")), on_failure=["bad"])
    flow.add("not wanted", group(add.call(8), add.call(9), sequential=True), when={"a": 7})
    flow.add("nor this", mark.call("never").on_end(mark.call("never")), after=["not wanted"])
    flow.add("at last", total.partial(), takes={"numbers": "not wanted"}, ignore=["not wanted"])
    task = enqueue(flows, flow)
    await until(lambda: app.flows.get(flows.connection, task.id).state == "partly_succeeded")
    parts = {part.name: part for part in app.flows.tree(flows.connection, task.id).parts}
    assert {name: part.state for name, part in parts.items()} == {
        "a": "succeeded", "both": "succeeded", "sum": "succeeded", "bad": "failed", "undo": "succeeded",
        "not wanted": "skipped", "nor this": "skipped", "at last": "failed",
    }  # fmt: skip
    assert app.get(flows.connection, parts["sum"].id).result == 20
    assert sorted(entry.value for entry in flows.ledger("mark")) == ["never None", "undo None", "undone None"]


async def test_wrong_compositions_are_refused_at_the_call(flows: Fleet) -> None:
    untyped: Any = flow_apps  # a type checker refuses most of these by itself: see tests/typing
    add, double, total, say, secret_word = (
        getattr(untyped, name) for name in ("add", "double", "total", "say", "secret_word")
    )

    def circle() -> Flow:
        return Flow("c").add("a", mark.call(), after=["b"]).add("b", mark.call(), after=["c"]).add(
            "c", mark.call(), after=["a"]
        )  # fmt: skip

    for wrong, message in (
        (lambda: say.call("x").then(double), "result of 'say' is string, but 'double' takes integer as 'a'"),
        (lambda: group(say.call("x")).then(total), "array of string, but 'total' takes array of integer"),
        (lambda: add.call(1).then(total), "integer, but 'total' takes array"),
        (lambda: add.call(1).then(secret_word), "takes no argument"),
        (lambda: secret_word.call().then(say), "is secret, but 'word' of 'say' is not"),
        (lambda: group(), "at least one call"),
        (lambda: group(add), "expected a call"),
        (lambda: add.call(1).then(add.call(2), 3), "only for a task type"),
        (lambda: add.call(1).then(add, c=3), "no such argument"),
        (lambda: add.call(1).then(add, a=3), "'a' comes from another task and is given too"),
        (lambda: enqueue(flows, group(add.options(key="k").call(1))), "has a key.* hands over"),
        (
            lambda: enqueue(flows, Flow("w").add("g", group(add.call(1))).add("b", mark.call(), when={"g": [2]})),
            "only that of a single task can be compared",
        ),
        (
            lambda: enqueue(
                flows,
                Flow("e").add("g", group(add.call(1))).add("b", mark.partial(), takes={"a": "g"}, on_failure=["g"]),
            ),
            "only a single task has one",
        ),
        (lambda: Flow("x").add("g", group(add.call(1)), takes={"a": "b"}), "has all its arguments: with takes add"),
        (
            lambda: enqueue(flows, circle()),
            "circle: a -> c -> b -> a|circle: c -> b -> a -> c|circle: b -> a -> c -> b",
        ),
        (
            lambda: enqueue(flows, Flow("u").add("a", mark.call(), after=["b"])),
            "waits for 'b', which 'u' does not have",
        ),
        (lambda: Flow("d").add("a", mark.call()).add("a", mark.call()), "has a part 'a' already"),
        (lambda: Flow("p").add("a", double.partial()), "'a' is required, but not given"),
        (lambda: Flow("t").add("a", mark.partial(), takes={"zz": "b"}), "has no parameter 'zz'"),
        (
            lambda: enqueue(flows, Flow("m").add("a", say.call("x")).add("b", double.partial(), takes={"a": "a"})),
            "result of 'say' is string",
        ),
    ):
        with pytest.raises((FlowInvalid, Exception), match=message):
            wrong()
    assert flows.count("tasks") == flows.count("flows") == flows.count("deps") == 0


async def test_a_rolled_back_flow_never_exists_and_a_committed_one_is_whole(flows: Fleet) -> None:
    composed = group(add.call(i) for i in range(2500)).then(total)
    with flows.connection.transaction(force_rollback=True):
        composed.enqueue(flows.connection)
    assert flows.count("tasks") == flows.count("flows") == flows.count("joins") == flows.count("outbox") == 0
    task = enqueue(flows, composed)
    assert flows.count("joins", "is_flow") == 1 + 1 + 3  # the chain, the group, and its shards of a thousand
    assert flows.count("outbox") == 2500 and flows.count("tasks", "state = 1") == 1
    await working(flows)
    assert await task.wait(PATIENCE) == sum(range(2500)) + 2500


async def test_secrets_stay_secret_on_their_way(flows: Fleet) -> None:
    await working(flows)
    task = enqueue(flows, secret_word.call().then(use_secret))
    with pytest.raises(TaskFailed):
        await task.wait(PATIENCE)
    rows = flows.rows(
        "SELECT t.args, e.detail FROM dispatcher.tasks t JOIN dispatcher.task_events e ON e.task_id = t.id"
    )
    assert "hunter2" not in str(rows) and "cannot use" in str(rows)


async def test_a_persons_retry_lets_the_flow_go_on(flows: Fleet) -> None:
    await working(flows)
    task = enqueue(flows, group(fail.call(1, unless="mended"), add.call(1)).then(total).then(double))
    with pytest.raises(TaskFailed):
        await task.wait(PATIENCE)
    [failed] = [row["id"] for row in flows.rows("SELECT id FROM dispatcher.tasks WHERE reason = 1")]
    dependants = [row["id"] for row in flows.rows("SELECT id FROM dispatcher.tasks WHERE reason = 6")]
    answers = app.retry(flows.connection, *dependants)
    assert [answer.outcome for answer in answers] == ["not_retryable"] * 2
    flows.open("mended")
    with flows.connection.transaction():
        app.retry(flows.connection, failed)
    assert await task.wait(PATIENCE) == 6
    states = flows.rows("SELECT state FROM dispatcher.flow_events WHERE flow_id = %s ORDER BY seq", task.id)
    assert [row["state"] for row in states] == [4, 7, 4, 6]


async def test_every_way_to_end_is_told_to_those_that_wait(flows: Fleet) -> None:
    await flows.relay()
    cancelled = enqueue(flows, add.call(1).then(double))
    expired = enqueue(flows, add.options(expires=0.05).call(1).then(double))
    [first] = flows.rows("SELECT node_id FROM dispatcher.flow_nodes WHERE flow_id = %s AND pos = 0", cancelled.id)
    app.cancel(flows.connection, first["node_id"])
    for task in (cancelled, expired):
        with pytest.raises(TaskFailed):
            await task.wait(PATIENCE)
    assert ends(flows, cancelled) == {"add": "cancelled by_request", "double": "failed dependency_failed"}
    assert ends(flows, expired) == {"add": "failed expired", "double": "failed dependency_failed"}
    await until(lambda: flows.count("cancel_requests") == 0)


async def test_who_cancels_a_handler_that_waits_cancels_its_children(flows: Fleet) -> None:
    await working(flows)
    parent = flows.enqueue(flow_apps.spawn_waiting.call("never"))
    await until(lambda: flows.count("flows") == 2)  # the child waits for one of its own
    children = flows.rows("SELECT id FROM dispatcher.flows ORDER BY id")[0]
    await until(lambda: len(flows.ledger("waits")) == 1)
    with flows.connection.transaction():
        app.cancel(flows.connection, parent.id)
    await until(lambda: flows.count("flows", "state = 8") == 2)
    assert flows.count("tasks", "state = 8") == 3 and flows.count("tasks") == 3
    assert app.flows.get(flows.connection, children["id"]).state == "cancelled"


async def test_handlers_wait_for_children_without_a_slot(flows: Fleet) -> None:
    await flows.relay()
    await flows.worker(app, slots=1)  # a parent that held its slot would wait for ever
    for call, result in (
        (flow_apps.spawn.call(5), 15),
        (flow_apps.spawn_plain.call(3), 12),
        (flow_apps.hand.call(2), 84),
    ):
        assert await flows.enqueue(call).wait(PATIENCE) == result
    assert len(flows.ledger("spawn")) == 2 + 3 and len(flows.ledger("hand")) == 2
    assert "parts did not succeed" in await flows.enqueue(flow_apps.spawn_failing.call()).wait(PATIENCE)
    nested = enqueue(flows, group(flow_apps.spawn.call(2), flow_apps.spawn.call(3)).then(total))
    assert await nested.wait(PATIENCE) == 3 + 6


async def test_a_flow_is_shown_cancelled_and_retried_as_a_whole(flows: Fleet) -> None:
    await working(flows)
    composed = group(flow_apps.wait_for.call("gate", i) for i in range(3)).then(total).on_end(mark.call("end"))
    task = enqueue(flows, composed)
    await until(lambda: len(flows.ledger("waits")) == 3)
    info = app.flows.get(flows.connection, task.id)
    assert (info.kind, info.state, info.counts) == ("chain", "running", {"running": 3, "blocked": 2})
    with flows.connection.transaction():
        answers = app.flows.cancel(flows.connection, task.id, actor="me")
    assert sorted(answer.outcome for answer in answers) == ["cancel_requested"] * 3 + ["cancelled"] * 2
    with pytest.raises(TaskFailed):
        await task.wait(PATIENCE)
    tree = app.flows.tree(flows.connection, task.id)
    assert (tree.state, [part.kind for part in tree.parts]) == ("cancelled", ["group", "task", "task"])
    assert {part.state for part in tree.tasks()} == {"cancelled"} and len(tree.parts[0].parts) == 3
    flows.open("gate")
    with flows.connection.transaction():
        app.flows.retry(flows.connection, task.id)
    await until(lambda: app.flows.get(flows.connection, task.id).state == "succeeded")
    assert [event.state for event in app.flows.history(flows.connection, task.id)] == [
        "running",
        "cancelled",
        "running",
        "succeeded",
    ]


async def test_one_failure_stops_the_others_where_that_was_asked(flows: Fleet) -> None:
    await working(flows)
    composed = group(
        fail.call(), flow_apps.wait_for.call("never"), add.options(delay=3600).call(1), stop_on_failure=True
    ).on_failure(mark.call("undo"))
    task = enqueue(flows, composed)
    with pytest.raises(TaskFailed):
        await task.wait(PATIENCE)
    tree = app.flows.tree(flows.connection, task.id)
    assert sorted(part.state for part in tree.parts[0].parts) == ["cancelled", "cancelled", "failed"]
    assert tree.parts[1].state == "succeeded"
