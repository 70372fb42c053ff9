"""HTTP/1.1 on sockets: the server for callers, the client and its pool for upstreams. Begin with `server`.

May import: the gateway's `errors` and nothing else of ours. It knows no model, no limit and no protocol of a provider.
"""
