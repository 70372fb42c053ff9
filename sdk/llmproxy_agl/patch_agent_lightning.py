"""Replaces Agent-Lightning's class by ours, for code that creates a proxy itself, such as VERL."""

import sys
from typing import Any

from llmproxy_agl.proxy import LLMProxy

_PLACES = ("agentlightning", "agentlightning.llm_proxy", "agentlightning.verl.daemon")


def install(**options: Any) -> type[LLMProxy]:
    """Replace the class that Agent-Lightning creates proxies from in this process; return the replacement.

    *options* are added to the arguments of the code: `install(namespace="training")`. Agent-Lightning's type checks
    keep working: ours is a subclass.
    """
    replacement = type("LLMProxy", (_Installed,), {"OPTIONS": options, "__module__": __name__}) if options else LLMProxy
    for name in _PLACES:
        module = sys.modules.get(name)
        if module is not None:
            setattr(module, "LLMProxy", replacement)  # noqa: B010 - mypy knows the name as a class
    return replacement


class _Installed(LLMProxy):
    """Adds the options of `install`."""

    OPTIONS: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**self.OPTIONS, **kwargs})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as LLMProxy, a class that exists in every process."""
        return _copy, (self.__getstate__(),)


def _copy(state: dict[str, Any]) -> LLMProxy:
    proxy = LLMProxy.__new__(LLMProxy)
    proxy.__dict__.update(state)
    return proxy
