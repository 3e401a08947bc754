"""openai-python as its documentation shows it: what came out goes in again, functions made of pydantic models."""

import json
import sys

import openai
from pydantic import BaseModel

url, kind = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


class get_weather(BaseModel):
    """Weather of a city."""

    city: str


if kind == "responses":
    tools = [openai.pydantic_function_tool(get_weather)["function"] | {"type": "function"}]
    items = []
    for name, city in (("first", "Athens"), ("second", "Oslo")):
        items.append({"role": "user", "content": 'CALL get_weather {"city": "%s"}' % city})
        answer = client.responses.create(model="scripted", input=items, tools=tools)
        items += answer.output
        for call in answer.output:
            if call.type == "function_call":
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": "clear in " + json.loads(call.arguments)["city"]})
        answer = client.responses.create(model="scripted", input=items, tools=tools)
        items += answer.output
        print(name + ":", answer.output_text)
else:
    tools = [openai.pydantic_function_tool(get_weather)]
    messages = []
    for name, city in (("first", "Athens"), ("second", "Oslo")):
        messages.append({"role": "user", "content": 'CALL get_weather {"city": "%s"}' % city})
        message = client.chat.completions.parse(model="scripted", messages=messages, tools=tools).choices[0].message
        messages.append(message)
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "clear in " + call.function.parsed_arguments.city})
        message = client.chat.completions.create(model="scripted", messages=messages, tools=tools).choices[0].message
        messages.append(message.model_dump())
        print(name + ":", message.content)
