"""Table of providers: the way to each, one row each, under LiteLLM's name for it.

Read by the gateway (where to send a call), by the translator (what it must serve) and by the operator (whether a pod
needs a translator, and what to tell the author of a model nobody can reach). A new provider is one row here.
"""

import difflib
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Way(Enum):
    """Way that a call takes."""

    NATIVE = "native"
    """The gateway speaks the provider's protocol, OpenAI's or Anthropic's."""
    TRANSLATED = "translated"
    """The call goes through the translator, which speaks the provider's own protocol by LiteLLM."""


class Protocol(Enum):
    """Protocol of a provider's server; OPENAI for a translated one, for that is what the translator speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


LITELLMS = ""
"""Stands for an address that LiteLLM knows or makes of the environment."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the table."""

    name: str
    way: Way
    api_base: str | None = None
    """The provider's own address, up to where `/chat/completions` or `/messages` begins; None: a deployment must say
    its apiBase. LITELLMS for one that LiteLLM knows."""
    path: str = ""
    """Path that an address ends with; added where an apiBase leaves it out."""
    token_ids: bool = False
    """The server understands `return_token_ids`, which is requested by default then."""
    key_optional: bool = False
    """It serves without a key."""
    protocol: Protocol = Protocol.OPENAI
    stream_options: bool = True
    """It takes `stream_options.include_usage`; without that it sends the usage of a stream by itself."""
    output_limit: str = "max_tokens"
    """Field that bounds a response, when an Anthropic client's call is mapped."""
    reasoning_content: bool = False
    """An assistant's message may carry `reasoning_content`, which its chat templates see."""
    cache_control: bool = False
    """It understands Anthropic's `cache_control` in parts of OpenAI's messages."""
    max_effort: str = "high"
    """The highest `reasoning_effort` that its server knows."""
    responses: bool = False
    """Its server has OpenAI's `/responses`."""
    environment: str = ""
    """Variables that LiteLLM needs beside a key, or in place of one; pods get them by `pod.env`."""
    why: str = ""
    """Why one is native that is on none of LiteLLM's lists of OpenAI-compatible providers."""


def _row(name: str, way: Way, api_base: str | None, more: dict[str, Any]) -> Provider:
    return Provider(name, way, api_base, **more)


def _native(name: str, api_base: str, **more: Any) -> Provider:
    return _row(name, Way.NATIVE, api_base, more)


def _server(name: str, **more: Any) -> Provider:
    """A server that people run themselves: no address of its own, usually no key."""
    return _row(name, Way.NATIVE, None, {"key_optional": True, **more})


def _translated(name: str, api_base: str | None = LITELLMS, **more: Any) -> Provider:
    return _row(name, Way.TRANSLATED, api_base, more)


_AWS = "AWS_REGION and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or AWS_BEARER_TOKEN_BEDROCK"
_GOOGLE = "VERTEXAI_PROJECT, VERTEXAI_LOCATION, and GOOGLE_APPLICATION_CREDENTIALS; an image that has google-auth"
_WATSONX = "WATSONX_PROJECT_ID, and WATSONX_TOKEN or a key"
_ITS_OWN_CLASS = "LiteLLM's class for it is its OpenAI-like one, which it does not list"
_VLLM = {"token_ids": True, "reasoning_content": True, "responses": True}
_OPENAIS = {"output_limit": "max_completion_tokens", "max_effort": "xhigh", "responses": True}
_AZURE_PATH = {**_OPENAIS, "path": "/openai/v1"}
_AZURE = {**_AZURE_PATH, "why": "its v1 API is OpenAI's, with the deployment's name as the model"}
_OLLAMA = {"path": "/v1", "responses": True, "why": "it serves OpenAI's protocol beside its own"}
_OURS = "ours: LiteLLM has no name for it"

_TABLE = (
    _native("openai", "https://api.openai.com/v1", **_OPENAIS, why="it is the protocol"),
    _native("anthropic", "https://api.anthropic.com/v1", protocol=Protocol.ANTHROPIC, why="a protocol of the gateway"),
    _server("hosted_vllm", **_VLLM),
    _server("vllm", **_VLLM, why="ours: a server with an apiBase, where LiteLLM means vLLM in its own process"),
    _server("sglang", reasoning_content=True, responses=True, why=_OURS),
    _server("openai_like", responses=True, why="LiteLLM's name for any server that speaks OpenAI's protocol"),
    _server("custom_openai", responses=True, why="as openai_like"),
    _server("aiohttp_openai", responses=True, why="as openai_like"),
    _server("databricks", key_optional=False),
    _server("docker_model_runner"),
    _server("lemonade"),
    _server("litellm_proxy", responses=True),
    _server("llamafile"),
    _server("lm_studio", responses=True),
    _server("ollama", **_OLLAMA),
    _server("ollama_chat", **_OLLAMA),
    _server("xinference"),
    _server("azure", key_optional=False, **_AZURE),
    _server("azure_text", key_optional=False, **_AZURE),
    _server("azure_ai", key_optional=False, **_AZURE_PATH),
    # Addresses as LiteLLM 1.106.2 has them, where it has one.
    _native("ai21", "https://api.ai21.com/studio/v1"),
    _native("ai21_chat", "https://api.ai21.com/studio/v1"),
    _native("aiml", "https://api.aimlapi.com/v1"),
    _native("amazon_nova", "https://api.nova.amazon.com/v1", why=_ITS_OWN_CLASS),
    _native("apertis", "https://api.stima.tech/v1"),
    _native("assemblyai", "https://llm-gateway.assemblyai.com/v1"),
    _native("baseten", "https://inference.baseten.co/v1"),
    _native("cerebras", "https://api.cerebras.ai/v1"),
    _native("charity_engine", "https://api.charityengine.services/remotejobs/v2/inference"),
    _native("chutes", "https://llm.chutes.ai/v1"),
    _native("clarifai", "https://api.clarifai.com/v2/ext/openai/v1"),
    _native("codestral", "https://codestral.mistral.ai/v1", stream_options=False),
    _native("cognition", "https://api.cognition.ai/v1"),
    _native("cometapi", "https://api.cometapi.com/v1"),
    _native("compactifai", "https://api.compactif.ai/v1", why=_ITS_OWN_CLASS),
    _native("cortecs", "https://api.cortecs.ai/v1"),
    _native("darkbloom", "https://api.darkbloom.dev/v1"),
    _native("dashscope", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
    _native("deepinfra", "https://api.deepinfra.com/v1/openai"),
    _native("deepseek", "https://api.deepseek.com/beta", reasoning_content=True),
    _native("edenai", "https://api.edenai.run/v3"),
    _native("empower", "https://app.empower.dev/api/v1"),
    _native("featherless_ai", "https://api.featherless.ai/v1"),
    _native("fireworks_ai", "https://api.fireworks.ai/inference/v1", responses=True),
    _native("friendliai", "https://api.friendli.ai/serverless/v1"),
    _native("galadriel", "https://api.galadriel.com/v1"),
    _native("github", "https://models.inference.ai.azure.com"),
    _native("gradient_ai", "https://inference.do-ai.run", path="/v1", why=_ITS_OWN_CLASS),
    _native("groq", "https://api.groq.com/openai/v1", responses=True),
    _native("helicone", "https://ai-gateway.helicone.ai"),
    _native("hyperbolic", "https://api.hyperbolic.xyz/v1"),
    _native("inception", "https://api.inceptionlabs.ai/v1"),
    _native("lambda_ai", "https://api.lambda.ai/v1"),
    _native("libertai", "https://api.libertai.io/v1"),
    _native("maritalk", "https://chat.maritaca.ai/api", why=_ITS_OWN_CLASS),
    _native("meta", "https://api.meta.ai/v1"),
    _native("meta_llama", "https://api.llama.com/compat/v1"),
    _native("minimax", "https://api.minimax.io/v1", why=_ITS_OWN_CLASS),
    _native(
        "mistral",
        "https://api.mistral.ai/v1",
        stream_options=False,
        why="LiteLLM sends it OpenAI's protocol; its schema forbids fields that it lacks",
    ),
    _native("modelscope", "https://api-inference.modelscope.cn/v1"),
    _native("moonshot", "https://api.moonshot.ai/v1", reasoning_content=True),
    _native("morph", "https://api.morphllm.com/v1"),
    _native("nadir", "https://api.getnadir.com/v1", why=_ITS_OWN_CLASS),
    _native("nano-gpt", "https://nano-gpt.com/api/v1"),
    _native("nebius", "https://api.studio.nebius.ai/v1"),
    _native("neosantara", "https://api.neosantara.xyz/v1"),
    _native("novita", "https://api.novita.ai/v3/openai"),
    _native("nscale", "https://inference.api.nscale.com/v1"),
    _native("nvidia_nim", "https://integrate.api.nvidia.com/v1"),
    _native(
        "openrouter",
        "https://openrouter.ai/api/v1",
        cache_control=True,
        max_effort="xhigh",
        responses=True,
        why="its API is OpenAI's",
    ),
    _native("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1", why=_ITS_OWN_CLASS),
    _native("parasail", "https://api.parasail.io/v1"),
    _native("perplexity", "https://api.perplexity.ai"),
    _native("pinstripes", "https://pinstripes.io/v1"),
    _native("poe", "https://api.poe.com/v1"),
    _native("prism", "https://api.prisminference.com/v1"),
    _native("publicai", "https://api.publicai.co/v1"),
    _native("qwen_ai_platform", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
    _native("qwencloud", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
    _native("reka", "https://api.reka.ai/v1"),
    _native("sail", "https://api.sailresearch.com/v1"),
    _native("sambanova", "https://api.sambanova.ai/v1"),
    _native("scaleway", "https://api.scaleway.ai/v1"),
    _native("scx-ai", "https://api.scx.ai/v1"),
    _native("synthetic", "https://api.synthetic.new/openai/v1"),
    _native("tencent", "https://tokenhub-intl.tencentcloudmaas.com/v1"),
    _native("tensormesh", "https://serverless.tensormesh.ai/v1"),
    _native("text-completion-openai", "https://api.openai.com/v1", **_OPENAIS, why="openai, for its older completions"),
    _native("together_ai", "https://api.together.ai/v1"),
    _native("v0", "https://api.v0.dev/v1"),
    _native("vercel_ai_gateway", "https://ai-gateway.vercel.sh/v1"),
    _native("volcengine", "https://ark.cn-beijing.volces.com/api/v3"),
    _native("wandb", "https://api.inference.wandb.ai/v1"),
    _native("xai", "https://api.x.ai/v1", responses=True),
    _native("xiaomi_mimo", "https://api.xiaomimimo.com/v1"),
    _native("zai", "https://api.z.ai/api/paas/v4"),
    # Providers with a protocol of their own, which LiteLLM speaks. Those with `environment` are untested here.
    _translated("bedrock", environment=_AWS, key_optional=True),
    _translated("bedrock_mantle", environment=_AWS, key_optional=True),
    _translated("bytez"),
    _translated("cloudflare", environment="CLOUDFLARE_ACCOUNT_ID, or an apiBase"),
    _translated("cohere", "https://api.cohere.com"),
    _translated("cohere_chat", "https://api.cohere.com"),
    _translated("datarobot", "https://app.datarobot.com"),
    _translated("gdc", environment=_GOOGLE, key_optional=True),
    _translated("gemini", "https://generativelanguage.googleapis.com"),
    _translated("gigachat", environment="GIGACHAT_CREDENTIALS", key_optional=True),
    _translated("heroku", None),
    _translated("huggingface", None),
    _translated("infinity", None, key_optional=True),
    _translated("jina_ai", "https://api.jina.ai"),
    _translated("oci", environment="OCI_USER, OCI_FINGERPRINT, OCI_TENANCY, OCI_REGION and OCI_KEY", key_optional=True),
    _translated("predibase", environment="PREDIBASE_TENANT_ID"),
    _translated("replicate", "https://api.replicate.com"),
    _translated("sagemaker", environment=_AWS, key_optional=True),
    _translated("sagemaker_chat", environment=_AWS, key_optional=True),
    _translated("sagemaker_nova", environment=_AWS, key_optional=True),
    _translated("sap", environment="AICORE_SERVICE_KEY", key_optional=True),
    _translated("snowflake", None),
    _translated("triton", None, key_optional=True),
    _translated("vertex_ai", environment=_GOOGLE, key_optional=True),
    _translated("vertex_ai_beta", environment=_GOOGLE, key_optional=True),
    _translated("voyage", "https://api.voyageai.com"),
    _translated("watsonx", None, environment=_WATSONX),
    _translated("watsonx_text", None, environment=_WATSONX),
)

PROVIDERS: dict[str, Provider] = {row.name: row for row in _TABLE}

_LIBRARY = "is LiteLLM's own, in its process: name the model's server as openai_like/NAME with apiBase"
_AGENT = "runs agents, not a model: call it directly, and name here the model that it uses"
_MEDIA = "makes or reads images, sound, video or documents: this proxy serves text and embeddings"
_VECTORS = "keeps vectors or files: it is no model"
_PROMPTS = "keeps prompts: it is no model"
_PERSON = "asks a person to log in with a browser: use openai with a key"

REFUSED: dict[str, str] = {
    "petals": "runs in LiteLLM's process: name the model's server as openai_like/NAME with apiBase",
    "custom": "runs in LiteLLM's process: name the model's server as openai_like/NAME with apiBase",
    "auto_router": _LIBRARY,
    "litellm_agent": _LIBRARY,
    "typesafe": _LIBRARY,
    "strands_decider": _AGENT,
    "oobabooga": "is called by LiteLLM in a way that blocks: name it as openai_like/NAME, it speaks OpenAI's protocol",
    "nlp_cloud": "is called by LiteLLM in a way that blocks: another provider has the same models",
    "anthropic_text": "is an API that Anthropic has ended: use anthropic/NAME",
    "text-completion-codestral": "completes code around a gap, which no endpoint here asks for: use codestral/NAME",
    "text-completion-inception": "completes code around a gap, which no endpoint here asks for: use inception/NAME",
    "chatgpt": _PERSON,
    "github_copilot": _PERSON,
    **dict.fromkeys(("a2a", "a2a_agent", "cursor", "langflow", "langgraph", "manus", "ragflow"), _AGENT),
    **dict.fromkeys(("dotprompt", "humanloop", "langfuse"), _PROMPTS),
    **dict.fromkeys(("milvus", "mongodb", "pg_vector", "s3_vectors", "valkey"), _VECTORS),
    **dict.fromkeys(
        (
            *("aws_polly", "aws_textract", "azure_speech", "black_forest_labs", "deepgram", "elevenlabs", "fal_ai"),
            *("nvidia_riva", "recraft", "reducto", "runwayml", "soniox", "stability", "topaz", "transcribe"),
        ),
        _MEDIA,
    ),
}
"""LiteLLM's other names: not an LLM, or one that no process beside the caller can reach. Each with the way out."""


class UnknownProviderError(Exception):
    """No row has the name; the message says what to write."""


def split(model: str) -> tuple[Provider, str]:
    """Return the provider and its own name of *model* (`provider/name`); raise UnknownProviderError."""
    name, slash, rest = model.partition("/")
    provider = PROVIDERS.get(name)
    if not slash or not rest or provider is None:
        raise UnknownProviderError(f"model {model!r} {unusable(model)}")
    return provider, rest


def unusable(model: str) -> str:
    """Return what is wrong with a *model* that no row serves, and the way out."""
    name, slash, rest = model.partition("/")
    if not slash or not rest:
        return "must be provider/name, as in hosted_vllm/Qwen2.5-7B or openai/gpt-4o-mini"
    if name in REFUSED:
        return f"names {name}, which {REFUSED[name]}"
    close = difflib.get_close_matches(name, PROVIDERS, n=1)
    hint = f"did you mean {close[0]}? A" if close else "a"
    return (
        f"names {name}, which is no provider of LiteLLM's: {hint} server that speaks OpenAI's protocol is "
        "openai_like/NAME with apiBase"
    )
