"""OpenAI's own client against the server, on both engines, with mlx_lm.server beside it."""

import base64
import functools
import itertools
import json
import struct
import threading
import time
import unittest
import urllib.request

import openai
from pydantic import BaseModel

import servers

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
LISBON = [{"role": "user", "content": "What is the weather in Lisbon?"}]
HELLO = [{"role": "user", "content": "Hello"}]
STORY = [{"role": "user", "content": "Tell me a long story"}]
GREETING = "Hello! I am a very small model. Ask me about the weather, about harbours, or for some code."


class Harbour(BaseModel):
    name: str
    depth: int


def setUpModule():
    global ours, theirs
    ours, theirs = servers.go_mlx(), servers.mlx_lm()


def tearDownModule():
    theirs.close()
    assert ours.close() == 0, "".join(ours.lines)


class Case(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=ours.url + "/v1", api_key="none", max_retries=0)
        self.addCleanup(self.client.close)

    def each(self):
        for engine in servers.ENGINES:
            with self.subTest(engine=engine):
                yield engine

    def chat(self, model, messages, **options):
        return self.client.chat.completions.create(model=model, messages=messages, **options)

    def refused(self, param, **options):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("native", HELLO, **options)
        self.assertEqual(caught.exception.param, param)
        self.assertIn(param.split(".")[0], caught.exception.message)
        return caught.exception


class Chat(Case):
    def test_the_answer_and_its_engine(self):
        for engine in self.each():
            raw = self.client.chat.completions.with_raw_response.create(model=engine, messages=HELLO)
            self.assertEqual(raw.headers["x-go-mlx-engine"], engine)
            self.assertTrue(raw.headers["x-go-mlx-engine-reason"])
            self.assertTrue(raw.headers["x-request-id"])
            answer = raw.parse()
            message = answer.choices[0].message
            self.assertEqual(message.content, GREETING)
            self.assertEqual(message.reasoning_content, "A greeting. I greet back and offer help.")
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            self.assertGreater(answer.usage.completion_tokens_details.reasoning_tokens, 5)
            self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_it_says_what_mlx_lm_says(self):
        other = openai.OpenAI(base_url=theirs.url + "/v1", api_key="none")
        self.addCleanup(other.close)
        for question in ("Hello", "Show me code", "Show me a table", "Count to ten", "Say hello in Greek and Japanese"):
            messages = [{"role": "user", "content": question}]
            for thinking in (True, False):
                extra = {"chat_template_kwargs": {"enable_thinking": thinking}}
                want = other.chat.completions.create(
                    model="default_model", messages=messages, temperature=0, max_tokens=400, extra_body=extra
                )
                for engine in self.each():
                    got = self.chat(engine, messages, temperature=0, max_tokens=400, extra_body=extra)
                    self.assertEqual(got.choices[0].message.content.strip(), want.choices[0].message.content.strip())
                    self.assertEqual(got.choices[0].finish_reason, want.choices[0].finish_reason)
                    self.assertEqual(got.usage.prompt_tokens, want.usage.prompt_tokens)

    def test_a_stream_is_the_whole(self):
        for engine in self.each():
            whole = self.chat(engine, STORY, max_tokens=150)
            text, thought, finish, usage = "", "", None, None
            for chunk in self.chat(engine, STORY, max_tokens=150, stream=True, stream_options={"include_usage": True}):
                if chunk.usage:
                    usage = chunk.usage
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    thought += getattr(choice.delta, "reasoning_content", None) or ""
                    finish = choice.finish_reason or finish
            self.assertEqual(text, whole.choices[0].message.content)
            self.assertEqual(thought, whole.choices[0].message.reasoning_content)
            self.assertEqual(finish, "length")
            self.assertGreater(usage.prompt_tokens_details.cached_tokens, 0)
            usage.prompt_tokens_details = whole.usage.prompt_tokens_details
            self.assertEqual(usage, whole.usage)
            self.assertEqual(usage.completion_tokens, 150)

    def test_a_conversation_with_a_system_message_and_parts(self):
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Thank "}, {"type": "text", "text": "you"}]},
            {"role": "assistant", "content": "You are welcome."},
            {"role": "user", "content": "What is the capital of Portugal?"},
        ]
        for engine in self.each():
            answer = self.chat(engine, messages, reasoning_effort="none")
            self.assertEqual(answer.choices[0].message.content, "The capital of Portugal is Lisbon.")
            self.assertFalse(hasattr(answer.choices[0].message, "reasoning_content"))

    def test_stop_seed_and_several_answers(self):
        for engine in self.each():
            answer = self.chat(engine, [{"role": "user", "content": "Count to ten"}], stop=["six", "seven"], reasoning_effort="none")
            self.assertEqual(answer.choices[0].message.content, "one two three four five ")
            options = dict(temperature=3.0, max_tokens=20, n=3, seed=5, reasoning_effort="none")
            first, second = (self.chat(engine, HELLO, **options) for _ in range(2))
            texts = [c.message.content for c in first.choices]
            self.assertEqual(texts, [c.message.content for c in second.choices])
            self.assertEqual(len(set(texts)), 3)
            streamed = {}
            for chunk in self.chat(engine, HELLO, stream=True, **options):
                for c in chunk.choices:
                    streamed[c.index] = streamed.get(c.index, "") + (c.delta.content or "")
            self.assertEqual([streamed[i] for i in range(3)], texts)

    def test_log_probabilities(self):
        for engine in self.each():
            answer = self.chat(engine, HELLO, logprobs=True, top_logprobs=3, reasoning_effort="none")
            tokens = answer.choices[0].logprobs.content
            self.assertEqual(len(tokens), answer.usage.completion_tokens - 1, "all but the end")
            self.assertEqual("".join(t.token for t in tokens), GREETING)
            for t in tokens:
                self.assertEqual(bytes(t.bytes).decode(), t.token)
                self.assertEqual(t.top_logprobs[0].logprob, t.logprob)
                self.assertEqual(len(t.top_logprobs), 3)


class Tools(Case):
    def test_a_call_and_what_becomes_of_its_result(self):
        for engine in self.each():
            answer = self.chat(engine, LISBON, tools=[WEATHER])
            self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
            message = answer.choices[0].message
            call = message.tool_calls[0]
            self.assertEqual((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Lisbon"}))
            result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "sky": "sunny"}'}
            answer = self.chat(engine, [*LISBON, message, result], tools=[WEATHER], reasoning_effort="none")
            self.assertEqual(answer.choices[0].message.content, "It is sunny in Lisbon, 21 degrees.")

    def test_the_calls_of_mlx_lm(self):
        other = openai.OpenAI(base_url=theirs.url + "/v1", api_key="none")
        self.addCleanup(other.close)
        want = other.chat.completions.create(model="default_model", messages=LISBON, tools=[WEATHER], temperature=0, max_tokens=100)
        for engine in self.each():
            got = self.chat(engine, LISBON, tools=[WEATHER], temperature=0, max_tokens=100)
            calls = [[(c.function.name, json.loads(c.function.arguments)) for c in a.choices[0].message.tool_calls] for a in (got, want)]
            self.assertEqual(*calls)

    def test_several_calls_in_a_stream_and_only_one(self):
        ask = [{"role": "user", "content": "What is the weather in Oslo and Athens?"}]
        for engine in self.each():
            calls = {}
            for chunk in self.chat(engine, ask, tools=[WEATHER], stream=True):
                for c in chunk.choices:
                    for call in c.delta.tool_calls or []:
                        calls.setdefault(call.index, ["", ""])
                        calls[call.index][0] += call.function.name or ""
                        calls[call.index][1] += call.function.arguments or ""
            self.assertEqual([json.loads(a) for _, a in calls.values()], [{"city": "Oslo"}, {"city": "Athens"}])
            one = self.chat(engine, ask, tools=[WEATHER], parallel_tool_calls=False)
            self.assertEqual(len(one.choices[0].message.tool_calls), 1)
            self.assertGreater(one.usage.prompt_tokens, 50)

    def test_arguments_come_as_they_are_written(self):
        ask = [{"role": "user", "content": "What is the weather in Oslo and Athens?"}]
        for engine in self.each():
            options = {"tools": [WEATHER], "temperature": 0, "reasoning_effort": "none"}
            whole = self.chat(engine, ask, **options).choices[0].message.tool_calls
            pieces, order = {}, []
            for chunk in self.chat(engine, ask, stream=True, **options):
                for call in (c for choice in chunk.choices for c in choice.delta.tool_calls or []):
                    if call.index not in pieces:
                        self.assertTrue(call.id.startswith("call_"))
                        self.assertEqual((call.type, call.function.name, call.function.arguments), ("function", "get_weather", ""))
                        pieces[call.index] = []
                        order.append(call.index)
                    else:
                        self.assertEqual((call.id, call.type, call.function.name), (None, None, None))
                        pieces[call.index].append(call.function.arguments)
            self.assertEqual(order, [0, 1])
            self.assertEqual(["".join(p) for p in pieces.values()], [c.function.arguments for c in whole])
            self.assertTrue(all(len(p) > 2 for p in pieces.values()), pieces)
            # The client's own accumulator agrees.
            with self.client.chat.completions.stream(model=engine, messages=ask, **options) as stream:
                final = stream.get_final_completion().choices[0].message.tool_calls
            self.assertEqual([c.function.arguments for c in final], [c.function.arguments for c in whole])

    def test_a_call_that_is_cut_off_is_the_same_in_a_stream(self):
        for engine in self.each():
            for limit in range(4, 16):
                options = {"tools": [WEATHER], "temperature": 0, "reasoning_effort": "none", "max_tokens": limit}
                whole = self.chat(engine, LISBON, **options).choices[0]
                text, arguments, finish = "", "", None
                for chunk in self.chat(engine, LISBON, stream=True, **options):
                    for c in chunk.choices:
                        text += c.delta.content or ""
                        arguments += "".join(call.function.arguments for call in c.delta.tool_calls or [])
                        finish = c.finish_reason or finish
                self.assertEqual(finish, whole.finish_reason)
                self.assertEqual(text, whole.message.content or "")
                self.assertEqual(arguments, "".join(c.function.arguments for c in whole.message.tool_calls or []))

    def test_a_required_call_follows_its_schema(self):
        tool = {"type": "function", "function": {"name": "book", "strict": True, "parameters": {
            "type": "object", "properties": {"seats": {"type": "integer", "minimum": 1, "maximum": 4}, "window": {"type": "boolean"}},
            "required": ["seats", "window"], "additionalProperties": False}}}
        for engine, choice in itertools.product(servers.ENGINES, ("required", {"type": "function", "function": {"name": "book"}})):
            answer = self.chat(engine, HELLO, tools=[WEATHER, tool] if choice != "required" else [tool], tool_choice=choice)
            call = answer.choices[0].message.tool_calls[0]
            self.assertEqual(call.function.name, "book")
            arguments = json.loads(call.function.arguments)
            self.assertIn(arguments["seats"], range(1, 5))
            self.assertIsInstance(arguments["window"], bool)

    def test_tools_that_may_not_be_called(self):
        answer = self.chat("native", LISBON, tools=[WEATHER], tool_choice="none")
        self.assertIsNone(answer.choices[0].message.tool_calls)

    def test_a_model_without_tools_says_so(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("domains", HELLO, tools=[WEATHER])
        self.assertEqual(caught.exception.param, "tools")


class Formats(Case):
    def test_json_that_follows_a_schema(self):
        ask = [{"role": "user", "content": "Describe a harbour as JSON"}]
        for engine in servers.ENGINES:
            answer = self.client.chat.completions.parse(model=engine, messages=ask, response_format=Harbour, temperature=1.0, seed=3)
            self.assertIsInstance(answer.choices[0].message.parsed, Harbour)
            answer = self.chat(engine, ask, response_format={"type": "json_object"}, max_tokens=400)
            self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)


class Others(Case):
    def test_completions(self):
        for engine in self.each():
            create = self.client.completions.create
            prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            whole = create(model=engine, prompt=prompt, max_tokens=60)
            self.assertEqual(whole.choices[0].text, GREETING)
            text = "".join(c.choices[0].text for c in create(model=engine, prompt=prompt, max_tokens=60, stream=True))
            self.assertEqual(text, GREETING)
            many = create(model=engine, prompt=[prompt, prompt], max_tokens=5, n=2, logprobs=2)
            self.assertEqual([c.index for c in many.choices], [0, 1, 2, 3])
            self.assertEqual(len({c.text for c in many.choices}), 1)
            self.assertEqual("".join(many.choices[0].logprobs.tokens), many.choices[0].text)
            self.assertEqual(many.usage.completion_tokens, 20)
            ids = create(model=engine, prompt=[[1, 80, 90], [1, 80, 90]], max_tokens=3)
            self.assertEqual(ids.usage.prompt_tokens, 6)
            self.assertEqual(ids.choices[0].text, ids.choices[1].text)

    def test_an_echo_has_the_log_probabilities_of_generation(self):
        text = "What is the weather in Lisbon? The harbour of"
        for engine in self.each():
            complete = functools.partial(self.client.completions.create, model=engine, temperature=0)
            body = json.dumps({"model": engine, "content": text}).encode()
            request = urllib.request.Request(f"{ours.url}/tokenize", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                ids = json.load(answer)["tokens"]
            for most in (0, 1):  # lm-evaluation-harness asks for one token and passes over it
                both = complete(prompt=[ids, ids[:1]], max_tokens=most, logprobs=3, echo=True)
                choice, p = both.choices[0], both.choices[0].logprobs
                self.assertEqual(len(both.choices), 2)
                self.assertTrue(choice.text.startswith(text))
                self.assertEqual("".join(p.tokens), choice.text)
                self.assertEqual(choice.finish_reason, "length")
                self.assertEqual((both.usage.prompt_tokens, both.usage.completion_tokens), (len(ids) + 1, 2 * most))
                self.assertEqual((p.token_logprobs[0], p.top_logprobs[0]), (None, None))
                self.assertEqual({len(p.tokens), len(p.top_logprobs), len(p.text_offset), len(p.token_logprobs)}, {len(ids) + most})
                pieces = list(complete(prompt=text, max_tokens=most, logprobs=3, echo=True, stream=True))
                self.assertEqual("".join(c.choices[0].text for c in pieces), choice.text)
                streamed = [v for c in pieces if c.choices[0].logprobs for v in c.choices[0].logprobs.token_logprobs]
                self.assertIsNone(streamed[0])
                for got, want in zip(streamed[1:], p.token_logprobs[1:], strict=True):
                    self.assertAlmostEqual(got, want, delta=0.07)
            # The oracle: what generation says of the token in that place.
            for n in range(1, len(ids)):
                oracle = complete(prompt=ids[:n], max_tokens=1, logprobs=100).choices[0].logprobs
                self.assertAlmostEqual(max(p.top_logprobs[n].values()), max(oracle.top_logprobs[0].values()), delta=0.07)
                if p.tokens[n] in oracle.top_logprobs[0]:
                    self.assertAlmostEqual(p.token_logprobs[n], oracle.top_logprobs[0][p.tokens[n]], delta=0.1)

    def test_embeddings(self):
        texts = ["The boats came home.", "A clock is late.", "The boats came home."]
        packed = self.client.embeddings.create(model="domains", input=texts)
        plain = self.client.embeddings.create(model="domains", input=texts, encoding_format="float")
        for a, b in zip(packed.data, plain.data, strict=True):
            vector = struct.unpack(f"<{len(b.embedding)}f", base64.b64decode(a.embedding)) if isinstance(a.embedding, str) else a.embedding
            for x, y in zip(vector, b.embedding, strict=True):
                self.assertAlmostEqual(x, y, places=6)
        self.assertEqual(plain.data[0].embedding, plain.data[2].embedding)
        self.assertNotEqual(plain.data[0].embedding, plain.data[1].embedding)
        self.assertGreater(plain.usage.prompt_tokens, 6)
        native, python = (self.client.embeddings.create(model=engine, input=texts, encoding_format="float") for engine in ("native", "python"))
        self.assertEqual(python.usage, native.usage)
        for a, b in zip(python.data, native.data, strict=True):
            self.assertGreater(sum(x * y for x, y in zip(a.embedding, b.embedding, strict=True)), 0.999)

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["domains", "native", "python"])
        self.assertEqual(self.client.models.retrieve("native").id, "native")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("nobody")


class Responses(Case):
    def test_a_response_and_its_stream(self):
        for engine in self.each():
            whole = self.client.responses.create(model=engine, input="Hello", temperature=0)
            self.assertEqual(whole.output_text, GREETING)
            self.assertEqual([o.type for o in whole.output], ["reasoning", "message"])
            self.assertEqual(whole.status, "completed")
            events, text = [], ""
            with self.client.responses.stream(model=engine, input="Hello", temperature=0) as stream:
                for event in stream:
                    events.append(event.type)
                    text += event.delta if event.type == "response.output_text.delta" else ""
                final = stream.get_final_response()
            self.assertEqual((events[0], events[-1]), ("response.created", "response.completed"))
            self.assertEqual((text, final.output_text), (GREETING, GREETING))
            self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)

    def test_calls_and_going_on(self):
        tool = {"type": "function", **WEATHER["function"], "strict": False}
        for engine in self.each():
            first = self.client.responses.create(model=engine, input="Weather in Dublin?", tools=[tool])
            call = first.output[-1]
            self.assertEqual((call.type, json.loads(call.arguments)), ("function_call", {"city": "Dublin"}))
            result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 12, "sky": "rainy"}'}
            second = self.client.responses.create(
                model=engine, input=[result], tools=[tool], previous_response_id=first.id, reasoning={"effort": "none"}
            )
            self.assertEqual(second.output_text, "It is rainy in Dublin, 12 degrees.")
            self.assertEqual(self.client.responses.retrieve(second.id).output_text, second.output_text)
            self.client.responses.delete(first.id)
            with self.assertRaises(openai.NotFoundError):
                self.client.responses.create(model=engine, input="x", previous_response_id=first.id)

    def test_arguments_come_as_they_are_written(self):
        tool = {"type": "function", **WEATHER["function"], "strict": False}
        for engine in self.each():
            options = {"model": engine, "input": "Weather in Dublin?", "tools": [tool], "temperature": 0, "reasoning": {"effort": "none"}}
            whole = self.client.responses.create(**options).output[-1]
            with self.client.responses.stream(**options) as stream:
                events = list(stream)
            added = next(e for e in events if e.type == "response.output_item.added")
            self.assertEqual((added.item.type, added.item.name, added.item.arguments), ("function_call", "get_weather", ""))
            deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
            self.assertGreater(len(deltas), 2)
            self.assertEqual({e.item_id for e in deltas}, {added.item.id})
            done = next(e for e in events if e.type == "response.function_call_arguments.done")
            item = events[-1].response.output[-1]
            for arguments in ("".join(e.delta for e in deltas), done.arguments, item.arguments):
                self.assertEqual(arguments, whole.arguments)
            self.assertEqual((item.status, item.call_id), ("completed", added.item.call_id))
            cut = self.client.responses.create(**{**options, "max_output_tokens": 14})
            self.assertEqual((cut.status, cut.output[-1].status), ("incomplete", "incomplete"))
            self.assertEqual(cut.output[-1].type, "function_call")
            self.assertTrue(whole.arguments.startswith(cut.output[-1].arguments))

    def test_a_format_and_a_limit(self):
        parsed = self.client.responses.parse(model="native", input="Give me JSON", text_format=Harbour)
        self.assertIsInstance(parsed.output_parsed, Harbour)
        short = self.client.responses.create(model="native", input="Tell me a story", max_output_tokens=20)
        self.assertEqual((short.status, short.incomplete_details.reason), ("incomplete", "max_output_tokens"))


class Errors(Case):
    def test_fields_are_honoured_or_named(self):
        self.assertEqual(self.refused("audio", extra_body={"audio": {"voice": "x"}}).code, "unsupported_parameter")
        self.refused("modalities", modalities=["text", "audio"])
        self.refused("n", n=0)
        self.refused("temperature", temperature=-1)
        self.refused("top_p", top_p=7)
        self.refused("max_tokens", max_tokens=0)
        self.refused("logit_bias", logit_bias={"x": 1})
        self.refused("logit_bias", logit_bias={"99999999": 1})
        self.refused("top_logprobs", top_logprobs=3)
        self.refused("response_format", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}})
        self.refused("tool_choice", tool_choice="required")
        self.refused("messages[0].content[0].type", extra_body={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
        self.refused("messages[0].role", extra_body={"messages": [{"role": "wizard", "content": "x"}]})
        self.refused("tone", extra_body={"tone": "kind"})

    def test_what_has_no_effect_is_named(self):
        odd = {**WEATHER, "tone": "kind"}
        for engine in self.each():
            raw = self.client.chat.completions.with_raw_response.create(
                model=engine, tools=[odd], user="me", extra_body={"messages": [{"role": "user", "content": "x", "tone": "kind"}]}, messages=[]
            )
            self.assertEqual(raw.headers["x-go-mlx-ignored"], "messages[].tone, tools[].tone, user")

    def test_a_strict_server_refuses_what_has_no_effect(self):
        server = servers.go_mlx("--strict")
        self.addCleanup(server.close)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        self.addCleanup(client.close)
        for field, options in (("tools[0].tone", {"tools": [{**WEATHER, "tone": "kind"}]}), ("user", {"user": "me"})):
            with self.assertRaises(openai.BadRequestError) as caught:
                client.chat.completions.create(model="native", messages=HELLO, **options)
            self.assertEqual(caught.exception.param, field)

    def test_what_is_not_there(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.chat("nobody", HELLO)
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("native", [{"role": "user", "content": "word " * 5000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_a_client_that_leaves_ends_the_work(self):
        for engine in self.each():
            def active():
                status = self.client.get("/status", cast_to=object)
                return next(m["active"] for m in status["models"] if m["name"] == engine)

            def cut_off():
                with urllib.request.urlopen(ours.url + "/metrics") as page:
                    lines = page.read().decode().splitlines()
                return sum(float(line.split()[-1]) for line in lines if line.startswith("go_mlx_requests_total") and 'status="499"' in line)

            self.chat(engine, HELLO)  # loads the model, so that it is at work when it is left
            for stream in (True, False):
                # A stream is left once it has begun; what comes in one piece is left by a client that does not wait for it.
                client = self.client if stream else self.client.with_options(timeout=openai.Timeout(600, read=0.3))
                before = cut_off()
                with self.assertRaises(StopIteration if stream else openai.APITimeoutError):
                    answer = client.completions.create(
                        model=engine, prompt="x", max_tokens=3500, n=1 if stream else 8, stream=stream, temperature=2.0, seed=1,
                        logit_bias={"2": -100}, logprobs=100
                    )
                    if stream:
                        next(iter(answer))
                        answer.close()
                        raise StopIteration
                # The server notices, and says that it was not it who ended the answer.
                deadline = time.monotonic() + 300
                while (active() or cut_off() == before) and time.monotonic() < deadline:
                    time.sleep(0.02)
                self.assertEqual((active(), cut_off()), (0, before + 1), "".join(ours.lines[-5:]))


class Doors(unittest.TestCase):
    def test_keys(self):
        server = servers.go_mlx("--api-key", "right", GO_MLX_API_KEYS="other,another")
        self.addCleanup(server.close)
        for key, allowed in (("right", True), ("another", True), ("wrong", False), ("right,other", False)):
            client = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
            if allowed:
                client.models.list()
            else:
                with self.assertRaises(openai.AuthenticationError):
                    client.models.list()
            client.close()

    def test_one_too_many_is_told_to_come_back(self):
        server = servers.go_mlx("--max-requests", "1")
        self.addCleanup(server.close)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        self.addCleanup(client.close)
        begun, refused = threading.Event(), threading.Event()

        def long():  # nothing is read until the other request is refused, and events are too large for the buffers between
            events = client.completions.create(model="native", prompt="x", max_tokens=3900, stream=True, logprobs=100, logit_bias={"2": -100})
            for _ in events:
                begun.set()
                if refused.wait(300):
                    break
            events.close()

        thread = threading.Thread(target=long)
        thread.start()
        self.assertTrue(begun.wait(300))
        with self.assertRaises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="native", messages=HELLO)
        self.assertEqual(caught.exception.response.headers["retry-after"], "1")
        refused.set()
        thread.join()
        # The official client comes back by itself, once a second, until the server has noticed that the other one is gone.
        client.with_options(max_retries=120).chat.completions.create(model="native", messages=HELLO)


if __name__ == "__main__":
    unittest.main()
