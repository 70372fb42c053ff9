"""From the spool to a destination: order, batches, retries, the circuit breaker, dead letters. Begin with `worker`.

May import: `spool` and `spans`.
"""
