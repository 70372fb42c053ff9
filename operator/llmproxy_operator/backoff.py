"""How long to wait after failures in a row: one rule for passes and watches. Pure."""


def backoff_s(failures: int, jitter: float, *, first_s: float, most_s: float) -> float:
    """Return the wait: *first_s*, doubled with each failure up to *most_s*, and spread by *jitter* from 0 to 1."""
    return min(most_s, first_s * float(1 << min(failures - 1, 30))) * (0.5 + 0.5 * jitter)
