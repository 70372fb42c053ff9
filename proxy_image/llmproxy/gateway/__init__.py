"""The endpoint that trainers and agents call. Begin with `requests`, for the way of a call; `process` wires the parts.

process > admin > requests > adapters > upstreams, limits, shipping > http > metrics, errors: each may import those
behind it. `http` and `limits` work alone.

May import: the contract, the table of providers, `protocols` and `shipping_protocol`. Nothing here imports litellm, and
nothing on the request path imports FastAPI.
"""
