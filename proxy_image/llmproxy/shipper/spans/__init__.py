"""Encoding of a record as spans, for Agent-Lightning and for OpenTelemetry. Pure. Begin with `agent_lightning`.

May import: `spool.records`, `llmproxy.protocols` and the shipping protocol.
"""
