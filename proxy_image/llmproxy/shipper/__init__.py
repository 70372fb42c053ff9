r"""Shipper: makes finished calls durable and delivers spans of them to a LightningStore, an OTLP collector or both.

    gateway -> intake (socket, group commit) -> spool (segments on disk) -> delivery (spans, order, retries) -> store
                                                                              \-> retry queue -> dead-letter queue

Rooms, top to bottom, each importing only those below it: `app` (the process), `intake`, `delivery`, `spans`, `spool`,
`metrics`. May import besides: `llmproxy.contract`, `llmproxy.protocols`, `llmproxy.shipping_protocol`; nothing of
the gateway or the operator. Begin with `app`.
"""
