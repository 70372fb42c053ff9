"""Settings of all tests: property tests have no deadline, since a busy machine is no error."""

import contextlib

with contextlib.suppress(ImportError):  # Agent-Lightning's environment has no hypothesis
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
