"""Spans of a recorded call, for Agent-Lightning and for OpenTelemetry. Pure. Begin with `agent_lightning`.

May import: `llmproxy.protocols` and the shipping protocol.
"""
