"""The command line `llmproxy`: check, render, convert, local, top. Begin with `__main__`.

Layers: `__main__` > top, convert, render > local > manifests. May import: the API models, the operator's renderers, and
of `llmproxy` the contract and the table of providers.
"""
