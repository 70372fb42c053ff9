"""Records on disk: segment files, cursor, folder layout and lock. Begin with `spool`.

May import: the shipping protocol, nothing else of ours.
"""
