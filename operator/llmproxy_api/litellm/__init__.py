"""LiteLLM's configuration as an LLMProxy. Pure. Begin with `convert`.

May import: the API models.
"""
