"""Watches of the API server: kopf for LLMProxies, informers for their children, and the cache that they fill.

Begin with `kopf_watch`. May import: `names`, `manifest`, `errors`; it queues keys and decides nothing.
"""
