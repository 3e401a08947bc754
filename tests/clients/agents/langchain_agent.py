"""LangChain: two turns with one tool, on both of OpenAI's APIs."""

import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

url, kind = sys.argv[1:]


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"clear in {city}"


model = ChatOpenAI(model="scripted", base_url=url + "/v1", api_key="none", use_responses_api=kind == "responses")
bound = model.bind_tools([get_weather], strict=True)
messages = []
for name, city in (("first", "Athens"), ("second", "Oslo")):
    messages.append(HumanMessage('CALL get_weather {"city": "%s"}' % city))
    answer = bound.invoke(messages)
    messages.append(answer)
    for call in answer.tool_calls:
        messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    whole = None
    for piece in bound.stream(messages):
        whole = piece if whole is None else whole + piece
    messages.append(whole)
    print(name + ":", whole.text if isinstance(whole.text, str) else whole.text())
