"""pydantic-ai: two turns with one tool, by three of its models."""

import sys

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

url, kind = sys.argv[1:]
if kind == "anthropic":
    model = AnthropicModel("claude-sonnet-4-5", provider=AnthropicProvider(base_url=url, api_key="none"))
else:
    model = {"responses": OpenAIResponsesModel, "chat": OpenAIChatModel}[kind](
        "scripted", provider=OpenAIProvider(base_url=url + "/v1", api_key="none")
    )
agent = Agent(model, instructions="Be brief.")


@agent.tool_plain
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"clear in {city}"


first = agent.run_sync('CALL get_weather {"city": "Athens"}')
print("first:", first.output)
second = agent.run_sync('CALL get_weather {"city": "Oslo"}', message_history=first.all_messages())
print("second:", second.output)
