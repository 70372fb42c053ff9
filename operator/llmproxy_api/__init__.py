"""The LLMProxy custom resource: models, validation, CRD and API reference. Begin with `models`.

Pure: nothing here calls a cluster or reads a clock or an environment. `parse` validates offline with the same result as
the API server: the CRD is generated from the same models and rules.
May import: pydantic, and of `llmproxy` only the table of providers.
"""

from llmproxy_api.models import API_VERSION, GROUP, KIND, PLURAL, VERSION, LLMProxy, Spec
from llmproxy_api.validation import Problem, SpecError, parse

__all__ = ["API_VERSION", "GROUP", "KIND", "PLURAL", "VERSION", "LLMProxy", "Problem", "Spec", "SpecError", "parse"]
