"""The bottom layer: the tables, the state machine, and every SQL statement of the dispatcher.

It promises that whatever the callers do, a task only makes legal moves, each move is one row of the audit trail, and
a write that names an old attempt changes nothing.  It knows neither NATS nor task types, and exports nothing here:
import the module you need (``state.machine``, ``state.ids``, ``state.sql``, ``state.migrate``, ...).
"""
