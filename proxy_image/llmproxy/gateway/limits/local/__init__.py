"""Counters of one pod: windows, concurrency, the wait queue; pure, the clock is an argument. Begin with `counters`.

May import: nothing of ours but itself.
"""
