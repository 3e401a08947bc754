"""instructor: an object out of a text, by calls of both of OpenAI's APIs."""

import sys

import instructor
import openai
from pydantic import BaseModel

url, kind = sys.argv[1:]


class Place(BaseModel):
    city: str


mode = {"responses": instructor.Mode.RESPONSES_TOOLS, "chat": instructor.Mode.TOOLS, "parallel": instructor.Mode.TOOLS_STRICT}[kind]
client = instructor.from_openai(openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=mode)
for name, city in (("first", "Athens"), ("second", "Oslo")):
    messages = [{"role": "user", "content": 'CALL Place {"city": "%s"}' % city}]
    create = client.responses.create if kind == "responses" else client.chat.completions.create
    given = {"input": messages} if kind == "responses" else {"messages": messages}
    place = create(model="scripted", response_model=Place, max_retries=0, **given)
    print(name + ": The tool says: clear in", place.city)
