"""Two rewarded agents: the same task by the OpenAI SDK and by the Anthropic SDK, each at the URL of its rollout.

The reward is what the one returns and what the other emits; Agent-Lightning takes both.
"""

from agentlightning import LLM, emit_reward
from anthropic import Anthropic
from openai import OpenAI

TURNS = 2
"""Calls of one rollout."""


def openai_agent(task: str, llm: LLM) -> float:
    """Ask twice; the second answer is rewarded by its length."""
    client = OpenAI(base_url=f"{llm.endpoint}/v1", api_key="dummy", max_retries=20)
    said = ""
    for turn in range(TURNS):
        answer = client.chat.completions.create(
            model=llm.model, messages=[{"role": "user", "content": f"{task}, turn {turn}"}], **llm.sampling_parameters
        )
        said = answer.choices[0].message.content or ""
    return float(len(said))


def anthropic_agent(task: str, llm: LLM) -> None:
    """Do the same by another protocol."""
    client = Anthropic(base_url=llm.endpoint, api_key="dummy", max_retries=20)
    said = ""
    for turn in range(TURNS):
        answer = client.messages.create(
            model=llm.model, max_tokens=64, messages=[{"role": "user", "content": f"{task}, turn {turn}"}]
        )
        said = "".join(block.text for block in answer.content if block.type == "text")
    emit_reward(float(len(said)))


AGENTS = {"openai": openai_agent, "anthropic": anthropic_agent}
