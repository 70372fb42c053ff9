"""OpenAI's Responses API: the end of a stream that is forwarded, and the map to chat completions and back. Pure."""
