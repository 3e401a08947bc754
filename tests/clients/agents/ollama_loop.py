"""Ollama's own client: two turns with one tool."""

import sys

import ollama

client = ollama.Client(host=sys.argv[1])


def get_weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: its name
    """
    return f"clear in {city}"


assert client.list().models, "no models"
client.show("scripted")
messages = []
for name, city in (("first", "Athens"), ("second", "Oslo")):
    messages.append({"role": "user", "content": 'CALL get_weather {"city": "%s"}' % city})
    answer = client.chat("scripted", messages=messages, tools=[get_weather], think=True)
    messages.append(answer.message)
    for call in answer.message.tool_calls or []:
        messages.append({"role": "tool", "tool_name": call.function.name, "content": get_weather(**call.function.arguments)})
    text = ""
    for piece in client.chat("scripted", messages=messages, tools=[get_weather], stream=True):
        text += piece.message.content or ""
    messages.append({"role": "assistant", "content": text})
    print(name + ":", text)
