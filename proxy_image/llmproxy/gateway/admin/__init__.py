"""Health, metrics and control (pause, resume) on ports of their own, served by FastAPI. Begin with `api`.

May import: everything of the gateway; nothing imports it but `process`.
"""
