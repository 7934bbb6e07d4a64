"""streams.conf may spread queues over several streams: all of them are served, whichever relay leads."""

from __future__ import annotations

from collections import Counter

from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until

TWO = """
version = 1

[streams.BULK]

[queues.reports]
stream = "BULK"
"""


async def test_two_streams_and_two_relays_of_which_one_is_killed_lose_nothing(fleet: Fleet) -> None:
    fleet.use_streams(TWO)
    leading = await fleet.relay_process()
    standby = await fleet.relay(leads=False)
    await fleet.worker(queues=("default", "reports"), slots=20)

    def some(count: int) -> None:
        fleet.enqueue_many([apps.note.options(queue=("default", "reports")[n % 2]).call(n) for n in range(count)])

    some(200)
    await until(lambda: fleet.finished() >= 50)
    some(1000)
    await until(lambda: fleet.finished() >= 300)
    leading.kill()
    some(200)
    await fleet.signal(standby, standby.led, 5)
    await fleet.all_finish(1400)
    listed = await fleet.bus.api("STREAM.LIST", {"subject": f"{fleet.settings.namespace}.tasks.>"})
    held = {stream["config"]["name"]: stream["state"] for stream in listed["streams"]}
    assert held.keys() == {f"{fleet.settings.namespace}-TASKS", f"{fleet.settings.namespace}-BULK"}
    # each stream has carried its own queue, and neither the other's
    assert all(state["last_seq"] >= 700 for state in held.values())
    await until(lambda: _is_empty(fleet), what="messages left in a stream")
    queues = fleet.rows(
        "SELECT q.name, q.stream, count(*) AS n FROM dispatcher.tasks t"
        " JOIN dispatcher.queues q ON q.id = t.queue_id GROUP BY 1, 2 ORDER BY 1"
    )
    assert [(row["name"], row["stream"], row["n"]) for row in queues] == [
        ("default", "TASKS", 700),
        ("reports", "BULK", 700),
    ]
    starts = Counter(entry.task_id for entry in fleet.ledger("ran"))
    assert max(starts.values(), default=1) == 1


async def _is_empty(fleet: Fleet) -> bool:
    listed = await fleet.bus.api("STREAM.LIST", {"subject": f"{fleet.settings.namespace}.tasks.>"})
    return all(stream["state"]["messages"] == 0 for stream in listed["streams"])
