"""Why has this task not run yet: every cause that holds, from the database and, on request, from NATS and the workers.

answer   the value: causes with code, text, facts and cure
facts    what is known; what the database knows of it
live     what NATS and the workers know of it
causes   from what is known to causes
places   the same for a queued task: outbox, stream, workers
"""
