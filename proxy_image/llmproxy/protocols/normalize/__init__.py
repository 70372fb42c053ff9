"""Recorded requests and responses of any protocol as chat completions, for spans. Begin with `assemble`.

May import: the modules of `protocols` beside it and the maps.
"""
