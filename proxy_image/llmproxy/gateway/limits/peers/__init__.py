"""Limits over a roll: old and new pods count together over connections between them. Begin with `election`.

May import: `limits.local` and the limiter.
"""
