"""Anthropic's own client against the server, on both engines."""

import json
import unittest

import anthropic

import servers
from test_openai import GREETING

WEATHER = {
    "name": "get_weather",
    "description": "Current weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def setUpModule():
    global ours
    ours = servers.go_mlx()


def tearDownModule():
    assert ours.close() == 0, "".join(ours.lines)


def prompt_tokens(usage):
    """The whole prompt: input_tokens are those that no cache had."""
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


class Messages(unittest.TestCase):
    def setUp(self):
        self.client = anthropic.Anthropic(base_url=ours.url, api_key="none", max_retries=0)
        self.addCleanup(self.client.close)

    def each(self):
        for engine in servers.ENGINES:
            with self.subTest(engine=engine):
                yield engine

    def create(self, model, content, **options):
        options = {"max_tokens": 400, **options}
        return self.client.messages.create(model=model, messages=[{"role": "user", "content": content}], **options)

    def test_the_answer_without_and_with_thinking(self):
        for engine in self.each():
            plain = self.create(engine, "Hello")
            self.assertEqual([(b.type, b.text) for b in plain.content], [("text", GREETING)])
            self.assertEqual(plain.stop_reason, "end_turn")
            thinks = self.create(engine, "Hello", thinking={"type": "adaptive"})
            self.assertEqual([b.type for b in thinks.content], ["thinking", "text"])
            self.assertEqual(thinks.content[0].thinking, "A greeting. I greet back and offer help.")
            # What an assistant thought can be given back.
            again = self.client.messages.create(model=engine, max_tokens=50, messages=[
                {"role": "user", "content": "Hello"}, {"role": "assistant", "content": thinks.content},
                {"role": "user", "content": "Thank you"}])
            self.assertEqual(again.content[0].text, "You are welcome.")

    def test_a_stream_is_the_whole(self):
        for engine in self.each():
            for thinking in ({"type": "disabled"}, {"type": "adaptive"}):
                whole = self.create(engine, "Show me a table", thinking=thinking)
                with self.client.messages.stream(
                    model=engine, max_tokens=400, thinking=thinking, messages=[{"role": "user", "content": "Show me a table"}]
                ) as stream:
                    text = "".join(stream.text_stream)
                    final = stream.get_final_message()
                self.assertEqual(text, whole.content[-1].text)
                self.assertEqual([b.type for b in final.content], [b.type for b in whole.content])
                self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)
                self.assertEqual(prompt_tokens(final.usage), prompt_tokens(whole.usage))
                self.assertGreater(final.usage.cache_read_input_tokens, 0)

    def test_how_it_ends(self):
        for engine in self.each():
            self.assertEqual(self.create(engine, "Tell me a story", max_tokens=10).stop_reason, "max_tokens")
            stopped = self.create(engine, "Count to ten", stop_sequences=["nine", "four"])
            self.assertEqual((stopped.stop_reason, stopped.stop_sequence), ("stop_sequence", "four"))
            self.assertEqual(stopped.content[0].text, "one two three ")

    def test_tools(self):
        for engine in self.each():
            ask = "What is the weather in Oslo and Athens?"
            first = self.create(engine, ask, tools=[WEATHER], system="Be brief.")
            self.assertEqual(first.stop_reason, "tool_use")
            self.assertEqual([b.input for b in first.content], [{"city": "Oslo"}, {"city": "Athens"}])
            with self.client.messages.stream(
                model=engine, max_tokens=200, tools=[WEATHER], system="Be brief.", messages=[{"role": "user", "content": ask}]
            ) as stream:
                self.assertEqual([b.input for b in stream.get_final_message().content], [{"city": "Oslo"}, {"city": "Athens"}])
            results = [
                {"type": "tool_result", "tool_use_id": first.content[0].id, "content": '{"temperature": 4, "sky": "snowy"}'},
                {"type": "tool_result", "tool_use_id": first.content[1].id,
                 "content": [{"type": "text", "text": '{"temperature": 28, "sky": "clear"}'}]},
            ]
            last = self.client.messages.create(
                model=engine, max_tokens=100, tools=[WEATHER], system="Be brief.",
                messages=[{"role": "user", "content": ask}, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}],
            )
            self.assertEqual(last.content[0].text, "It is snowy in Oslo, 4 degrees. It is clear in Athens, 28 degrees.")

    def test_arguments_come_as_they_are_written(self):
        for engine in self.each():
            ask = {"model": engine, "max_tokens": 200, "tools": [WEATHER], "messages": [{"role": "user", "content": "What is the weather in Oslo and Athens?"}]}
            blocks, names = {}, {}
            for event in self.client.messages.create(stream=True, **ask):
                if event.type == "content_block_start":
                    names[event.index] = (event.content_block.type, event.content_block.name, event.content_block.input)
                if event.type == "content_block_delta":
                    self.assertEqual(event.delta.type, "input_json_delta")
                    blocks.setdefault(event.index, []).append(event.delta.partial_json)
            self.assertEqual(list(names.values()), [("tool_use", "get_weather", {})] * 2)
            self.assertTrue(all(len(pieces) > 2 for pieces in blocks.values()), blocks)
            whole = self.client.messages.create(**ask)
            self.assertEqual([json.loads("".join(pieces)) for pieces in blocks.values()], [b.input for b in whole.content])

    def test_a_call_that_is_cut_off_is_no_other_call(self):
        for engine in self.each():
            ask = {"model": engine, "max_tokens": 14, "tools": [WEATHER], "messages": [{"role": "user", "content": "What is the weather in Oslo?"}]}
            whole = self.client.messages.create(**ask)
            self.assertEqual((whole.stop_reason, whole.content[-1].type), ("max_tokens", "tool_use"))
            with self.client.messages.stream(**ask) as stream:
                partial = "".join(e.delta.partial_json for e in stream if e.type == "content_block_delta")
            self.assertEqual(whole.content[-1].input, {"INVALID_JSON": partial})

    def test_a_call_can_be_required(self):
        for engine in self.each():
            for choice in ({"type": "tool", "name": "get_weather"}, {"type": "any"}):
                answer = self.create(engine, "Hello", tools=[WEATHER], tool_choice={**choice, "disable_parallel_tool_use": True})
                self.assertEqual([b.name for b in answer.content], ["get_weather"])

    def test_a_format(self):
        schema = {"type": "object", "properties": {"depth": {"type": "integer"}}, "required": ["depth"], "additionalProperties": False}
        for engine in self.each():
            answer = self.create(engine, "Give me JSON", output_config={"format": {"type": "json_schema", "schema": schema}})
            self.assertIsInstance(json.loads(answer.content[0].text)["depth"], int)

    def test_tokens_are_counted_without_an_answer(self):
        for engine in self.each():
            counted = self.client.messages.count_tokens(model=engine, tools=[WEATHER], messages=[{"role": "user", "content": "Hello"}])
            self.assertEqual(counted.input_tokens, prompt_tokens(self.create(engine, "Hello", tools=[WEATHER]).usage))

    def test_errors_have_their_types(self):
        for kind, options in (
            (anthropic.NotFoundError, {"model": "nobody"}),
            (anthropic.BadRequestError, {"thinking": {"type": "enabled", "budget_tokens": 0}}),
            (anthropic.BadRequestError, {"extra_body": {"temperature": -3}}),
            (anthropic.BadRequestError, {"extra_body": {"container": "x"}}),
            (anthropic.BadRequestError, {"extra_body": {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}}),
        ):
            with self.assertRaises(kind) as caught:
                self.create(**{"model": "native", "content": "Hello", **options})
            self.assertEqual(caught.exception.body["type"], "error")
        self.assertIn("budget_tokens", str(self.error(thinking={"type": "enabled", "budget_tokens": 0})))

    def error(self, **options):
        try:
            self.create("native", "Hello", **options)
        except anthropic.APIStatusError as e:
            return e
        self.fail("no error")

    def test_a_budget_of_thought_is_kept(self):
        for engine in self.each():
            answer = self.create(engine, "Hello", thinking={"type": "enabled", "budget_tokens": 4})
            self.assertEqual([b.type for b in answer.content], ["thinking", "text"])
            self.assertNotIn("offer", answer.content[0].thinking)
            self.assertEqual(answer.content[1].text, GREETING)

    def test_an_answer_begins_as_it_is_told(self):
        for engine in self.each():
            answer = self.client.messages.create(model=engine, max_tokens=60, messages=[
                {"role": "user", "content": "Count to ten"}, {"role": "assistant", "content": "one two three four"}])
            self.assertEqual(answer.content[0].text, " five six seven eight nine ten")

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["domains", "native", "python"])


if __name__ == "__main__":
    unittest.main()
