"""What a worker tells about itself to whoever asks who is there."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import UUID

__all__ = ["Card"]


class Card:
    """The part that never changes, written down once at the start."""

    def __init__(self, name: str, boot_id: UUID, queues: Sequence[str]) -> None:
        self._fixed = {
            "worker": name,
            "boot_id": str(boot_id),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "queues": list(queues),
            "version": version("jetstream-dispatcher"),
            "python": platform.python_version(),
            "started_at": datetime.now(UTC).isoformat(),
        }

    def now(self, **figures: Any) -> dict[str, Any]:
        """The whole card, with the figures of this moment."""
        return self._fixed | figures
