"""OpenAI's Responses API, as far as gateway and shipper must read it: the end of a stream, and a call in terms of chat.

Ends there: bytes go through as they are, and nothing here is sent to a client or to an upstream.
"""
