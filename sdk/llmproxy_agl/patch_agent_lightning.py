"""Puts our class where Agent-Lightning takes its own from: for code that builds a proxy by itself, as VERL does."""

import sys
from typing import Any

from llmproxy_agl.proxy import LLMProxy

_PLACES = ("agentlightning", "agentlightning.llm_proxy", "agentlightning.verl.daemon")


def install(**options: Any) -> type[LLMProxy]:
    """Have Agent-Lightning build our proxy wherever it builds one in this process from now on; return the class.

    *options* are added to those that the code gives: `install(namespace="training")`. What Agent-Lightning only checks
    for (a proxy that a Trainer is given) stays its own class, of which ours is one.
    """
    made = type("LLMProxy", (_Installed,), {"OPTIONS": options, "__module__": __name__}) if options else LLMProxy
    for name in _PLACES:
        module = sys.modules.get(name)
        if module is not None:
            setattr(module, "LLMProxy", made)  # noqa: B010 - mypy knows the name as a class
    return made


class _Installed(LLMProxy):
    """Adds the options that were given at `install`."""

    OPTIONS: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**self.OPTIONS, **kwargs})

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the class that every process has."""
        return _copy, (self.__getstate__(),)


def _copy(state: dict[str, Any]) -> LLMProxy:
    made = LLMProxy.__new__(LLMProxy)
    made.__dict__.update(state)
    return made
