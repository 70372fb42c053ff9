"""Index of model names: exact names, aliases, and prefixes (`openai/*`)."""

from collections.abc import Iterable, Mapping


class ModelIndex:
    """Maps the name in a request to a model of the document."""

    __slots__ = ("_models", "_prefixes", "names")

    def __init__(self, models: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Index *models*, pairs of a name and its aliases."""
        index: dict[str, str] = {}
        prefixes: list[tuple[str, str]] = []
        for name, aliases in models:
            if name.endswith("*"):
                prefixes.append((name[:-1], name))
            else:
                index[name] = name
            for alias in aliases:
                index[alias] = name
        self._models: Mapping[str, str] = index
        self._prefixes = sorted(prefixes, key=lambda item: -len(item[0]))
        self.names = list(index)
        """Names that clients can request; a prefix stands for names that only its server knows."""

    def find(self, name: str) -> str | None:
        """Return the model of *name*, None if there is none: a name or alias, else the longest prefix."""
        model = self._models.get(name)
        if model is not None:
            return model
        for prefix, entry in self._prefixes:
            if len(name) > len(prefix) and name.startswith(prefix):
                return entry
        return None

    def all(self) -> list[str]:
        """Return names, aliases and prefixes, for error messages."""
        return sorted([*self.names, *(entry for _, entry in self._prefixes)])
