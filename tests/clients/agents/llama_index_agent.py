"""LlamaIndex: two turns with one tool."""

import sys

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"clear in {city}"


model = OpenAILike(model="scripted", api_base=sys.argv[1] + "/v1", api_key="none", is_chat_model=True, is_function_calling_model=True)
tool = FunctionTool.from_defaults(get_weather)
messages = []
for name, city in (("first", "Athens"), ("second", "Oslo")):
    messages.append(ChatMessage(role="user", content='CALL get_weather {"city": "%s"}' % city))
    answer = model.chat_with_tools([tool], chat_history=messages)
    messages.append(answer.message)
    for call in model.get_tool_calls_from_response(answer):
        messages.append(ChatMessage(role="tool", content=str(tool(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id}))
    text = ""
    for piece in model.stream_chat_with_tools([tool], chat_history=messages):
        text = piece.message.content or text
    messages.append(ChatMessage(role="assistant", content=text))
    print(name + ":", text)
