"""The LLMProxy custom resource: its models, its verdict on an object, and the CRD made from them.

Pure: nothing here speaks to a cluster, reads a clock or an environment. `parse` gives offline the verdict that the API
server gives by the CRD, because both come from the same models and rules.
"""

from llmproxy_api.models import API_VERSION, GROUP, KIND, PLURAL, VERSION, LLMProxy, Spec
from llmproxy_api.validation import Problem, SpecError, parse

__all__ = ["API_VERSION", "GROUP", "KIND", "PLURAL", "VERSION", "LLMProxy", "Problem", "Spec", "SpecError", "parse"]
