"""The endpoint that trainers and agents call.

app (routes) -> pipeline (one call, top to bottom) -> limits, balance, retry, upstream; streaming for answers in parts;
handover tells the shipper. Nothing here imports litellm, and nothing on the request path imports FastAPI.
"""
