"""Records on disk: segments, cursors, the layout of a spool folder. Begin with `spool`.

May import: nothing of ours but the shipping protocol.
"""
