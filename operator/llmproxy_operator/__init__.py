"""The control plane: an LLMProxy in; objects, status and events out. It never carries a request."""
