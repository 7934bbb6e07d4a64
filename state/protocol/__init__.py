"""The protocol as pure functions: what every guarded statement may do, and a checker of all interleavings.

``guards`` is the table of DESIGN section 5, one named predicate per condition; ``steps`` are the database's moves under
these guards; ``world`` adds stream, workers, relays and faults; ``invariants`` says what must never happen; ``checker``
walks through everything that can.  Nothing here knows SQL or NATS.  Tests compare the same table and the same steps
with the real statements.
"""
