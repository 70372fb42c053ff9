"""What every part of the resource is made of: strict models that carry their rules, whole numbers, list-maps."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from llmproxy_api.rules import Rule


def whole(raw: object) -> object:
    """Return 5 for 5.0: JSON knows no difference, and the API server takes both."""
    return int(raw) if isinstance(raw, float) and raw.is_integer() else raw


Limit = Annotated[int, Field(ge=1, le=1_000_000_000), BeforeValidator(whole)]
Weight = Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(whole)]
Tries = Annotated[int, Field(ge=0, le=10), BeforeValidator(whole)]


class ListMap:
    """Marks a list whose items are told apart by one field; two with the same are refused."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say so in the schema."""
        return {**handler(core), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


class UniqueItems:
    """Marks a list of plain values; the same one twice is refused."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say so in the schema."""
        return {**handler(core), "x-kubernetes-list-type": "set"}


class Part(BaseModel):
    """A part of the resource: unknown fields are refused, nothing is converted, nothing changes afterwards."""

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
        """Take a null for an absent field, as the API server does."""
        if not isinstance(raw, Mapping):
            return raw
        known = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in raw.items() if value is not None or key not in known}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the rules to the schema."""
        schema = handler.resolve_ref_schema(handler(core))
        if cls.RULES:
            schema["x-kubernetes-validations"] = [rule.as_validation() for rule in cls.RULES]
        return schema
