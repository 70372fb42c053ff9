"""The life of one request: read, admit, attempt, fall back, respond, record. Begin with `handler.serve`.

May import: `http`, `adapters`, `upstreams`, `limits` and `shipping`; nothing of `admin`.
"""
