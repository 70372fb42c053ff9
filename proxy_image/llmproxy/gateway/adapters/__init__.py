"""Adapters: which upstream protocol answers which client protocol, and how. Begin with `registry`.

May import: `llmproxy.protocols`, `http` and `upstreams`; it admits nothing, retries nothing and records nothing.
"""
