"""Base of the API models: a strict model that carries its rules, integers, list-maps."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from llmproxy_api.rules import Rule


def integral(raw: object) -> object:
    """Return 5 for 5.0: JSON has one type of number, and the API server accepts both."""
    return int(raw) if isinstance(raw, float) and raw.is_integer() else raw


Limit = Annotated[int, Field(ge=1, le=1_000_000_000), BeforeValidator(integral)]
Weight = Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(integral)]
RetryCount = Annotated[int, Field(ge=0, le=10), BeforeValidator(integral)]


class ListMap:
    """Marks a list whose items have a unique key."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the list type to the schema."""
        return {**handler(core), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


class UniqueItems:
    """Marks a list of unique plain values."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the list type to the schema."""
        return {**handler(core), "x-kubernetes-list-type": "set"}


class ApiModel(BaseModel):
    """Base class of the API models: strict and frozen, unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_by_alias=True,
        validate_by_name=False,
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, raw: object) -> object:
        """Treat null as absent, as the API server does."""
        if not isinstance(raw, Mapping):
            return raw
        aliases = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in raw.items() if value is not None or key not in aliases}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the rules to the schema."""
        schema = handler.resolve_ref_schema(handler(core))
        if cls.RULES:
            schema["x-kubernetes-validations"] = [rule.validation() for rule in cls.RULES if rule.cel]
        return schema
