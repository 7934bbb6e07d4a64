"""``dispatcher bench``: measures speed on real servers with real, separate processes.

Nothing is switched off for it: claim, settle, events and counters are written, durability is read back from the server
and checked.  Every round ends with a proof that all tasks of the run succeeded and that their events are complete.
"""

from __future__ import annotations
