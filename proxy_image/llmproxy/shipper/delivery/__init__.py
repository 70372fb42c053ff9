"""Delivery of records from the spool to a destination: order, batches, retries, circuit breaker, dead letters.

A destination is a LightningStore or an OTLP collector; `destination` puts its parts together, `worker` is the loop that
empties the spool. May import: `spans`, `spool`, `metrics`. Begin with `worker`.
"""
