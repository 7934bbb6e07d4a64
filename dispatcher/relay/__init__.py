"""The relay: moves committed work from the outbox to the stream, and does the chores that one process must lead.

service    one relay process: stands by, leads, steps down
drain      outbox rows → stream, in one bounded transaction
sleep      the guarded wake: writers notify only a leader that sleeps
chores     timers, cancel requests, parked tasks, counters
rescuer    tasks of dead workers
reconcile  tasks whose message was lost
flow       how many messages may be outstanding per lane
"""
