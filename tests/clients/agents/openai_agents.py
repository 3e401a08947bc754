"""OpenAI's Agents SDK: two turns with one tool, on both of OpenAI's APIs."""

import asyncio
import sys

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

url, kind = sys.argv[1:]
set_tracing_disabled(True)


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"clear in {city}"


async def main():
    client = AsyncOpenAI(base_url=url + "/v1", api_key="none")
    model = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}[kind](model="scripted", openai_client=client)
    agent = Agent(name="Weather", instructions="Be brief.", tools=[get_weather], model=model)
    first = await Runner.run(agent, 'CALL get_weather {"city": "Athens"}')
    print("first:", first.final_output)
    second = Runner.run_streamed(agent, first.to_input_list() + [{"role": "user", "content": 'CALL get_weather {"city": "Oslo"}'}])
    async for _ in second.stream_events():
        pass
    print("second:", second.final_output)


asyncio.run(main())
