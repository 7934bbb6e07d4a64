"""Every NATS subject in one place.  Pure.

<namespace>.tasks.<stream>.<queue>.<lane>   task references, stored by the stream
<namespace>.push.<stream>.<queue>.<lane>    where the lane's push consumer delivers
<namespace>.hint.<stream>.<queue>.<lane>    where the relay tells of a single task before it publishes, core NATS
<namespace>.ctl.*                           presence and control, core NATS only
<namespace>.settled                         ids of tasks that just ended, one message per settled batch
<namespace>.waits                           ids of tasks that an attempt left waiting, one message per settled batch
"""

from __future__ import annotations

__all__ = [
    "DELIVER_GROUP",
    "Subjects",
]

DELIVER_GROUP = "workers"


class Subjects:
    """The subjects of one installation, named by its namespace."""

    def __init__(self, namespace: str = "dispatcher") -> None:
        self.namespace = namespace
        self.settled = f"{namespace}.settled"
        """Workers publish 17-byte records here: 16 bytes task id, 1 byte state."""
        self.waits = f"{namespace}.waits"
        """The same for tasks that an attempt left waiting: retrying, snoozed, given back."""
        self.all_lanes = f"{namespace}.tasks.>"
        """Everything the relay publishes; streams store it, a tail listens to it."""
        self.all_hints = f"{namespace}.hint.>"
        """The same of tasks that may need no message in a stream."""
        self.cancel = f"{namespace}.ctl.cancel"
        """The leader publishes 20-byte records here: 16 bytes task id, 4 bytes attempt."""
        self.workers = f"{namespace}.ctl.workers"
        """A request here is answered by every live worker with one JSON object; its body may ask for more."""
        self.control = f"{namespace}.ctl.control"
        """A request here makes the workers it names drain or stop; each of them answers."""
        self.demand = f"{namespace}.ctl.demand"
        """Workers announce how many messages they want; the leader sizes the lanes by it."""
        self.busy = f"{namespace}.ctl.busy"
        """Workers announce the start and end of a busy period; the leader's rescuer listens."""
        self.beat = f"{namespace}.ctl.beat"
        """The leading relay's heartbeat."""

    def stream_name(self, stream: str) -> str:
        """The stream's name on the server: the namespace keeps installations apart."""
        return f"{self.namespace}-{stream}"

    def stream_filter(self, stream: str) -> str:
        """All task subjects of one stream."""
        return f"{self.namespace}.tasks.{stream}.>"

    def lane(self, stream: str, queue: str, lane: str) -> str:
        """Where the relay publishes tasks of a lane."""
        return f"{self.namespace}.tasks.{stream}.{queue}.{lane}"

    def push(self, stream: str, queue: str, lane: str) -> str:
        """Where the lane's consumer delivers."""
        return f"{self.namespace}.push.{stream}.{queue}.{lane}"

    def hint(self, stream: str, queue: str, lane: str) -> str:
        """Where the relay tells one worker of a task, past the stream."""
        return f"{self.namespace}.hint.{stream}.{queue}.{lane}"

    @staticmethod
    def consumer(queue: str, lane: str) -> str:
        """The durable name of a lane's consumer."""
        return f"{queue}--{lane}"
