"""Watches of the API server: kopf for LLMProxies, informers for their children, and the cache that they fill.

Begin with `kopf_watch` and `informer`. May import: `cluster`, `workqueue`, `manifest`, `names`, `errors`. It queues
keys and decides nothing.
"""
