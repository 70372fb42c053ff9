"""`llmproxy local`: the pods of an LLMProxy as processes of this machine. Begin with `runner`.

May import: the API models, the operator's renderers, and the CLI's `manifests`.
"""
