"""Tests of the worker's server and samplers in this process, on the trained model."""

import asyncio
import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "python"))

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from go_mlx_worker import limits, model, plain, scoring, turns
from go_mlx_worker.channel import Progress
from go_mlx_worker.errors import RequestError, error_message
from go_mlx_worker.frames import encode_frame, read_frame
from go_mlx_worker.prompts import PromptCache
from go_mlx_worker.sampling import Keys, Sampler, SpeculativeSampler
from go_mlx_worker.server import Server
from go_mlx_worker.stream import Segments

MODEL = str(ROOT / "tests/models/domains")

GENERATE = {
    "t": "generate",
    "text": "Please check",
    "max_tokens": 12,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "repetition_penalty": 1.0,
    "repetition_context": 20,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": [],
    "seed": 1,
    "stop": [],
    "stop_tokens": [],
    "ignore_eos": True,
    "logprobs": False,
    "top_logprobs": 0,
    "segments": False,
    "kv_bits": 0,
    "kv_group_size": 64,
    "kv_start": 0,
    "max_kv_size": 0,
    "draft_tokens": 0,
    "solo": False,
    "credit": 64,
}


class Sink:
    def __init__(self):
        self.messages = []

    def write(self, frames):
        stream = io.BytesIO(frames)
        while (message := read_frame(stream)) is not None:
            if message["t"] != "pass":
                self.messages.append(message)


def make_server(**load):
    sink = Sink()
    server = Server(None, sink, Progress())
    message = {"t": "load", "id": 1, "path": MODEL, "trust_remote_code": False, "batch": 8, "prompt_cache": 0}
    server._serve(message | load)
    assert sink.messages[-1]["t"] == "result", sink.messages
    return server, sink


def run(server):
    while server._busy():
        server._step()


class Serving(unittest.TestCase):
    def cancel(self, server, request):
        server._cancelled[request] = time.monotonic()  # as the reader thread does
        server._serve({"t": "cancel", "id": request})

    def test_every_cancel_is_acknowledged_once(self):
        server, sink = make_server()
        for request, steps in ((2, 0), (3, 1), (4, 3), (5, 1000)):
            server._serve(GENERATE | {"id": request})
            for _ in range(steps):
                server._step()
            self.cancel(server, request)
            run(server)
            acks = [m for m in sink.messages if m["t"] == "cancelled" and m["id"] == request]
            self.assertEqual(len(acks), 1, request)
            made = [m for m in sink.messages if m["t"] == "token" and m["id"] == request]
            if steps < 1000:
                self.assertEqual(acks[0]["tokens"], len(made))
        self.assertFalse(server._cancelled or server._acknowledged or server._stepper.streams())

    def test_a_list_to_embed_stops_between_its_passes(self):
        server, sink = make_server()
        ids = [[2] * 1500] * 20
        request = {"t": "embed", "from": 0, "texts": [""] * 20, "ids": ids, "prompt": "", "dimensions": 0}
        server._serve(request | {"id": 3, "texts": [""], "ids": [[2]]})
        run(server)  # what mlx computes once is there after it
        before = mx.get_active_memory()
        server._serve(request | {"id": 2})
        for _ in range(3):
            server._step()
        self.assertTrue(server._busy())
        self.cancel(server, 2)
        self.assertFalse(server._busy())
        self.assertEqual([m["t"] for m in sink.messages if m["id"] == 2], ["cancelled"])
        self.assertEqual(mx.get_active_memory(), before)
        self.assertLess(mx.get_cache_memory(), 1 << 16)  # vectors of one pass

    def test_a_worker_that_cannot_read_ends_and_says_why(self):
        class Broken:
            def __init__(self, error):
                self.error = error

            def read(self, _):
                raise self.error

        for error in (MemoryError(), OSError(5, "Input/output error"), RecursionError("\ud800")):
            with tempfile.TemporaryFile() as said:
                with mock.patch("os._exit", side_effect=SystemExit) as ended, mock.patch("os.write", lambda _, text: said.write(text)):
                    with self.assertRaises(SystemExit):
                        Server(Broken(error), Sink(), Progress())._read()
                ended.assert_called_once_with(3)
                said.seek(0)
                self.assertIn(type(error).__name__.encode(), said.read())

    def test_no_request_ends_the_server_or_goes_unanswered(self):
        server, sink = make_server(prompt_cache=1 << 20)
        rng = random.Random(3)
        junk = [None, -1, 0, 7, 1 << 70, 1.5, float("nan"), "", "x", [], [1], [[1, 2]], {}, True, b"\xff", "[]", "{}"]
        kinds = {
            "generate": GENERATE,
            "classify": {"t": "classify", "from": 0, "texts": ["a", "soup"], "labels": ["x", "y"]},
            "encode": {"t": "encode", "text": "a", "special": True},
            "decode": {"t": "decode", "ids": [5, 6]},
            "render": {"t": "render", "messages": '[{"role":"user","content":"hi"}]'},
            "memory": {"t": "memory"},
            "surprise": {"t": "surprise"},
        }
        sent = {}
        for request in range(10, 410):
            message = dict(kinds[rng.choice(list(kinds))]) | {"id": request}
            for _ in range(rng.randrange(3)):
                field = rng.choice([k for k in message if k not in ("t", "id")] or ["x"])
                if rng.random() < 0.3:
                    message.pop(field, None)
                else:
                    message[field] = rng.choice(junk)
            message["credit"] = 64
            if message.get("max_tokens") in (12, 1 << 70):
                message["max_tokens"] = 5
            sent[request] = message
            server._serve(message)
            for _ in range(rng.randrange(4)):
                server._step()
            if request % 20 == 0:
                run(server)
        run(server)
        for request in range(10, 410):
            ends = [
                m
                for m in sink.messages
                if m["id"] == request and (m["t"] in ("result", "error") or "finish" in m)
            ]
            self.assertEqual(len(ends), 1, (sent[request], ends))
        # And it still does what it did.
        server._serve(GENERATE | {"id": 1000})
        run(server)
        self.assertEqual(sum(m["t"] == "token" and m["id"] == 1000 for m in sink.messages), 12)


class Sampling(unittest.TestCase):
    request = GENERATE | {"temperature": 1.0, "top_p": 1.0, "seed": 5}

    def test_keys_depend_on_seed_and_place_only(self):
        keys, again = Keys(9), Keys(9)
        straight = [keys.at(p).tolist() for p in range(300)]
        again.forget_before(250)
        self.assertEqual([again.at(p).tolist() for p in range(250, 300)], straight[250:])
        self.assertEqual(len({tuple(k) for k in straight}), 300)
        self.assertNotEqual(Keys(10).at(0).tolist(), straight[0])

    def test_draws_have_the_distribution_they_were_given(self):
        probabilities = mx.array([0.5, 0.3, 0.15, 0.05])
        logprobs = mx.log(probabilities)[None]
        n = 1500
        for change, want in (
            ({}, [0.5, 0.3, 0.15, 0.05]),
            ({"top_k": 2}, [0.625, 0.375, 0, 0]),
            ({"min_p": 0.4}, [0.625, 0.375, 0, 0]),
            ({"temperature": 0.5}, [0.684932, 0.246575, 0.061644, 0.006849]),
            ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, [0, 0.6, 0.3, 0.1]),
            ({"xtc_probability": 0.5, "xtc_threshold": 0.2}, [0.25, 0.45, 0.225, 0.075]),
        ):
            sampler = Sampler(self.request | change, [], [])
            drawn = mx.concatenate([sampler(logprobs) for _ in range(n)]).tolist()
            # Pearson's chi-squared; 16.3 is passed once in a thousand with 3 degrees of freedom.
            counts = [drawn.count(t) for t in range(4)]
            self.assertEqual([c for c, w in zip(counts, want) if w == 0], [0] * want.count(0), change)
            chi = sum((c - n * w) ** 2 / (n * w) for c, w in zip(counts, want) if w > 0)
            self.assertLess(chi, 16.3, (change, counts))

    def test_drafts_and_target_draw_alike(self):
        logprobs = mx.log(mx.softmax(mx.random.normal((40, 50), key=mx.random.key(1)), axis=-1))
        plain = Sampler(self.request, [], [])
        want = [plain(logprobs[p : p + 1]).item() for p in range(40)]
        made = 0
        sampler = SpeculativeSampler(Sampler(self.request, [], []), 3, 40, lambda: made)
        rng = random.Random(1)
        while made < 40:
            n = min(3, 40 - made)
            drafts = [sampler(logprobs[made + i : made + i + 1]).item() for i in range(n)]
            self.assertEqual(drafts, want[made : made + n])
            target = sampler(logprobs[made : made + n + 1]).tolist()
            self.assertEqual(target, want[made : made + n + 1])
            made += rng.randint(1, n + 1)  # some are accepted

    def test_replayed_tokens_come_again_and_then_the_draws_go_on(self):
        logprobs = mx.zeros((1, 100))
        plain = Sampler(self.request, [], [])
        want = [plain(logprobs).item() for _ in range(20)]
        resumed = Sampler(self.request, [], want[:11])
        self.assertEqual([resumed(logprobs).item() for _ in range(20)], want)


class Thinking:
    """What Segments asks of a tokenizer."""

    has_thinking, think_start, think_end = True, "<think>", "</think>"
    has_tool_calling, tool_call_start, tool_call_end = True, "<tool>", "</tool>"
    structural_markers, response_transitions = [], {}

    @staticmethod
    def tool_parser(text, tools):
        name, _, argument = text.partition("(")
        return {"name": name, "arguments": {"x": int(argument.removesuffix(")"))}}

    def __init__(self, opened=False):
        self._opened = opened

    def rfind_think_start(self, ids):
        return 3 if self._opened else -1

    def rfind_think_end(self, ids):
        return -1


class Segmenting(unittest.TestCase):
    def test_kinds_over_any_borders(self):
        text = "hi <think>is 1<2?</think>yes<tool>f(1)</tool> <thin"
        want = {"normal": "hi yes <thin", "reasoning": "is 1<2?", "tool": "f(1)"}
        rng = random.Random(4)
        for _ in range(200):
            segments, got, rest, growing = Segments(Thinking(), [], None), {}, text, ""
            while rest:
                n = rng.randint(1, 9)
                whole, call_text = segments.add(rest[:n], last=n >= len(rest))
                for kind, piece, calls in whole:
                    got[kind] = got.get(kind, "") + piece
                    self.assertEqual(calls, [["f", '{"x": 1}']] if kind == "tool" else [])
                    if kind == "tool":
                        self.assertTrue(piece.startswith(growing))
                        growing = ""
                growing += call_text
                rest = rest[n:]
            self.assertEqual(growing, "")
            self.assertEqual(got, want)

    def test_templates_may_open_the_reasoning(self):
        segments = Segments(Thinking(opened=True), [1, 2, 3], None)
        self.assertEqual(segments.add("so</think>yes", last=True)[0], [["reasoning", "so", []], ["normal", "yes", []]])

    def test_what_is_no_call_is_text(self):
        segments = Segments(Thinking(), [], None)
        self.assertEqual(segments.add("<tool>f(", last=True), ([["tool", "f(", []]], ""))

    def test_a_call_under_way_is_given_as_it_grows(self):
        segments = Segments(Thinking(), [], None)
        self.assertEqual(segments.add("so<tool>f", last=False), ([["normal", "so", []]], "f"))
        self.assertEqual(segments.add("(1)</to", last=False), ([], "(1)"))
        self.assertEqual(segments.add("ol><tool>g", last=False), ([["tool", "f(1)", [["f", '{"x": 1}']]]], "g"))


class Prompts(unittest.TestCase):
    def test_bytes_are_capped_and_zero_keeps_nothing(self):
        class Cache:
            nbytes, state = 100, ()

            def is_trimmable(self):
                return False

        for cap, entries in ((0, 0), (99, 0), (100, 1), (350, 3)):
            prompts = PromptCache(cap)
            for i in range(10):
                prompts.keep([i, i + 1, i + 2], [Cache()])
            self.assertEqual(prompts.nbytes, 100 * entries)
            self.assertEqual(prompts.fetch([9, 10, 11, 12])[1], 3 if entries else 0)
            self.assertEqual(prompts.fetch([77, 78])[1], 0)


class Faults(unittest.TestCase):
    """What may fail beside a stream, and in what it says, without a token lost or the worker ended."""

    def tokens(self, sink, request):
        return [m["token"] for m in sink.messages if m["t"] == "token" and m["id"] == request]

    def alone(self, text="Please check", **options):
        server, sink = make_server()
        server._serve(GENERATE | {"id": 2, "text": text, "max_tokens": 40} | options)
        run(server)
        return self.tokens(sink, 2)

    def test_no_token_is_lost_when_a_pass_fails_for_a_newcomer(self):
        want, where = self.alone(), self.alone("Where")
        for steps in (1, 7, 38, 39):
            server, sink = make_server()
            server._serve(GENERATE | {"id": 2, "max_tokens": 40})
            for _ in range(steps):
                server._step()
            model = server._loaded.model

            class Broken(type(model)):
                def __call__(self, inputs, *args, **kwargs):
                    if 4100 in inputs.flatten().tolist():
                        raise ValueError("this model does not like the token")
                    return super().__call__(inputs, *args, **kwargs)

            model.__class__ = Broken
            server._serve({**GENERATE, "id": 3, "text": "", "ids": [5, 4100, 7, 8]})
            run(server)
            self.assertEqual(self.tokens(sink, 2), want, steps)
            errors = [m for m in sink.messages if m["t"] == "error"]
            self.assertEqual([m["id"] for m in errors], [3])
            # And what failed together is together again.
            server._serve(GENERATE | {"id": 4, "text": "Where", "max_tokens": 40})
            server._serve(GENERATE | {"id": 5, "text": "The team", "max_tokens": 40})
            run(server)
            self.assertEqual(self.tokens(sink, 4), where)

    def test_a_suspect_has_passes_of_its_own_and_makes_the_same_tokens(self):
        want = self.alone(temperature=1.0)
        for first, end, resume in ((0, 8, 0), (10, 20, 12), (0, 1 << 30, 12), (38, 60, 30)):
            server, sink = make_server()
            server._serve(GENERATE | {"id": 3, "text": "Where", "max_tokens": 60})
            server._serve(
                GENERATE
                | {"id": 2, "temperature": 1.0, "max_tokens": 40, "resume": want[:resume], "alone_from": first, "alone_until": end}
            )
            passes = []
            run_pass = server._run

            def note(step):
                stream = server._stepper.find(2)
                if stream is not None:
                    passes.append((stream.made, list(step.requests)))
                run_pass(step)

            server._run = note
            run(server)
            self.assertEqual(self.tokens(sink, 2), want[resume:])
            for made, requests in passes:
                if first <= made < end and 2 in requests:
                    self.assertEqual(requests, [2], made)
            shared = [made for made, requests in passes if len(requests) > 1]
            self.assertEqual(bool(shared), first > 0 or end < 60, (first, end))

    def test_what_cannot_be_sent_is_its_request_s_error(self):
        for text in ("half a \ud83d pair", "x"):
            error = ValueError(text)
            server, sink = make_server()
            server._serve(GENERATE | {"id": 2})
            server._stepper.find(2)._matcher.add = lambda piece: (_ for _ in ()).throw(error)
            server._serve(GENERATE | {"id": 3, "text": "Where"})
            run(server)
            self.assertEqual([m["id"] for m in sink.messages if m["t"] == "error"], [2])
            self.assertEqual(len(self.tokens(sink, 3)), 12)
        server, sink = make_server()
        server._serve(GENERATE | {"id": 2})
        server._serve(GENERATE | {"id": 3, "text": "Where"})
        server._stepper.find(2)._matcher.add = lambda piece: ("\udc00", "")
        run(server)
        self.assertEqual([m["id"] for m in sink.messages if m["t"] == "error"], [2])
        self.assertEqual(len(self.tokens(sink, 3)), 12)

    def test_text_that_is_not_utf8_is_its_request_s_error(self):
        server, sink = make_server()
        frame = encode_frame({"t": "encode", "id": 9, "text": "aXb", "special": True}).replace(b"aXb", b"a\xffb")
        message = read_frame(io.BytesIO(frame))
        server._serve(message)
        server._serve(GENERATE | {"id": 10, "stop": ["\udcff"]})
        self.assertEqual([(m["id"], m["code"]) for m in sink.messages[1:]], [(9, "invalid_utf8"), (10, "invalid_utf8")])
        self.assertIn("stop[0]", sink.messages[-1]["message"])

    def test_a_call_with_half_a_surrogate_pair_is_a_call(self):
        tokenizer = Thinking()
        tokenizer.tool_parser = lambda text, tools: {"name": "f\ud800", "arguments": {"x": "\ud83d"}}
        ((segment,), _) = Segments(tokenizer, [], None).add("<tool>f</tool>", last=True)
        name, arguments = segment[2][0]
        self.assertEqual(json.loads(arguments), {"x": "\ud83d"})
        encode_frame({"name": name, "arguments": arguments})

    def test_half_a_surrogate_pair_in_a_template_s_text_is_a_character_of_its_own(self):
        """JSON can say it, and UTF-8 cannot. The native engine gives templates U+FFFD, too."""
        half = '{"a\\ud800": ["\\udc00\\ud83d\\ude00", 1]}'
        server, sink = make_server()
        tokenizer = server._loaded.tokenizer._tokenizer
        tokenizer.chat_template = (
            "{{ messages[0].tool_calls[0].function.arguments | tojson }}{{ tools | tojson if tools }}{{ x | tojson if x }}"
            + r'{{ "\udfff" }}'
        )
        call = '[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": %s}}]}]' % half
        chat = {"messages": call, "tools": "[%s]" % half, "template_arguments": '{"x": %s}' % half}
        said = '{"a\ufffd": ["\ufffd\U0001f600", 1]}'
        server._serve({"t": "render", "id": 2, **chat})
        self.assertEqual(sink.messages[-1], {"t": "result", "id": 2, "text": f"{said}[{said}]{said}\ufffd"})
        server._serve(GENERATE | {"id": 3, "text": "", "max_tokens": 3, "segments": True, **chat})
        run(server)
        self.assertEqual(len(self.tokens(sink, 3)), 3, sink.messages[-1])
        tokenizer.chat_template = tokenizer.chat_template.replace(r"\udfff", "")  # which a plain chat cannot have
        server._serve(GENERATE | {"id": 4, "text": "", "max_tokens": 3, "plain": True, **chat})
        run(server)
        self.assertEqual(len(self.tokens(sink, 4)), 3, sink.messages[-1])

    def test_numbers_that_json_does_not_have_make_no_call(self):
        tokenizer = Thinking()
        tokenizer.tool_parser = lambda text, tools: json.loads(text)
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "[0, NaN]"):
            text = f'{{"name": "f", "arguments": {{"x": {number}}}}}'
            self.assertEqual(Segments(tokenizer, [], None).add(f"<tool>{text}</tool>", last=True)[0], [["tool", text, []]])

    def failing(self, module, name, inside):
        """Lets a func of a module fail once, where it is called from the given one. The list is filled then."""
        real, failed = getattr(module, name), []

        def call(*args, **kwargs):
            if not failed and sys._getframe(1).f_code.co_name == inside:
                failed.append(True)
                raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")
            return real(*args, **kwargs)

        return mock.patch.object(module, name, call), failed

    def test_a_stream_that_cannot_leave_its_batch_goes_on(self):
        want, other = self.alone(), self.alone("Where")
        for name, request in (
            ("the last one in the batch", {"max_tokens": 5}),
            ("one without credit", {"max_tokens": 40, "credit": 4}),
        ):
            for module, func, inside in ((mx, "eval", "leave"), (BatchGenerator, "remove", "leave")):
                server, sink = make_server()
                server._serve(GENERATE | {"id": 2, "max_tokens": 40})
                server._serve(GENERATE | {"id": 3, "text": "Where"} | request)
                patch, failed = self.failing(module, func, inside)
                with patch:
                    run(server)
                self.assertTrue(failed, name)
                server._serve({"t": "credit", "id": 3, "n": 64})
                run(server)
                self.assertEqual(self.tokens(sink, 2), want, name)
                self.assertEqual(self.tokens(sink, 3), other[: request["max_tokens"]], name)
                self.assertEqual([m for m in sink.messages if m["t"] == "error"], [])

    def test_what_cannot_be_taken_out_of_its_batch_ends_nothing_else(self):
        want = self.alone()
        server, sink = make_server()
        for request in (2, 3, 4):
            server._serve(GENERATE | {"id": request, "text": "Please check" if request == 2 else "Where", "max_tokens": 40})
        for _ in range(5):
            server._step()
        patch, failed = self.failing(BatchGenerator, "remove", "remove")
        with patch:
            server._cancelled[3] = time.monotonic()
            server._serve({"t": "cancel", "id": 3})
        self.assertTrue(failed)
        run(server)
        self.assertEqual(self.tokens(sink, 2), want)
        self.assertEqual(len(self.tokens(sink, 4)), 40)
        self.assertEqual([(m["t"], m["id"]) for m in sink.messages if m["t"] in ("error", "cancelled")], [("cancelled", 3)])

    def test_a_stream_that_cannot_be_closed_ends_nothing_else(self):
        where = self.alone("Where")
        server, sink = make_server(draft=MODEL)
        for request in (2, 3):  # one is cancelled, the other one comes to its end
            server._serve(GENERATE | {"id": request})
            server._step()
            server._stepper._alone[request]._inner = mock.Mock(close=mock.Mock(side_effect=RuntimeError("no memory")))
        server._cancelled[2] = time.monotonic()
        server._serve({"t": "cancel", "id": 2})
        server._serve(GENERATE | {"id": 4, "text": "Where", "max_tokens": 40, "draft_tokens": -1})
        run(server)
        self.assertEqual([m["id"] for m in sink.messages if m["t"] == "cancelled"], [2])
        self.assertEqual([m for m in sink.messages if m["t"] == "error"], [])
        self.assertEqual(len(self.tokens(sink, 3)), 12)
        self.assertEqual(self.tokens(sink, 4), where)

    def test_kv_that_cannot_be_kept_ends_nothing(self):
        server, sink = make_server(prompt_cache=1 << 20)
        patch, failed = self.failing(mx, "eval", "keep")
        with patch, mock.patch("sys.stderr", io.StringIO()) as said:
            for request in (2, 3):
                server._serve(GENERATE | {"id": request, "max_tokens": 40})
            run(server)
        self.assertTrue(failed)
        self.assertIn("KV is not kept", said.getvalue())
        self.assertEqual([len(self.tokens(sink, request)) for request in (2, 3)], [40, 40])
        self.assertEqual([m for m in sink.messages if m["t"] == "error"], [])

    def test_messages_about_requests_that_are_over_end_nothing(self):
        server, sink = make_server()
        server._serve(GENERATE | {"id": 2})
        for message in (
            {"t": "credit", "id": 2}, {"t": "credit", "id": 2, "n": "x"}, {"t": "credit", "id": 77, "n": 1},
            {"t": "cancel", "id": 78}, {"t": "cancel", "id": 78},
        ):
            server._serve(message)
        run(server)
        self.assertEqual(len(self.tokens(sink, 2)), 12)

    def test_a_cancel_at_any_moment_ends_its_section_only(self):
        limits.install()
        limits.watch(lambda: True)
        over = threading.Event()

        def nudge():
            while not over.is_set():
                limits.nudge()

        thread = threading.Thread(target=nudge)
        thread.start()
        try:
            ended = 0
            for _ in range(20000):
                try:
                    limits.limited(60, "work", lambda: None)
                except RequestError:
                    ended += 1
            self.assertEqual(ended, 20000)  # it was cancelled before each began
            turn, sections = iter(range(1 << 60)), 50000
            limits.watch(lambda: next(turn) % 3 == 2)  # not at the beginning
            for _ in range(sections):
                try:
                    limits.limited(60, "work", lambda: None)
                except RequestError:
                    ended += 1
            self.assertGreater(ended, 20000)
        finally:
            over.set()
            thread.join()
            limits.watch(None)

    def test_signals_in_a_row_end_a_section_once(self):
        """Each cancel of any request sends one, so that several may come while the first one is being answered."""
        disarm, came = limits._disarm, []

        def with_signals():
            if len(came) < 3:  # a signal is delivered as a func begins
                came.append(1)
                signal.raise_signal(signal.SIGALRM)
            disarm()

        before = signal.getsignal(signal.SIGALRM)
        limits.install()
        try:
            limits.watch(lambda: True)
            with mock.patch.object(limits, "_disarm", with_signals), self.assertRaises(RequestError):
                limits.limited(60, "this", lambda: time.sleep(60))
            self.assertEqual(len(came), 3)
            self.assertIsNone(limits._guard.until)
            self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0.0, 0.0))
        finally:
            disarm()
            limits.watch(None)
            signal.signal(signal.SIGALRM, before)

    def test_a_limit_of_memory_ends_with_its_section(self):
        """Also where signals come just when it is to be taken back."""
        before, limit = signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)
        unbound, came = limits._unbound, []

        def with_signals():
            if len(came) < 3:
                came.append(1)
                signal.raise_signal(signal.SIGALRM)
            unbound()

        limits.install()
        try:
            limits.watch(lambda: bool(came))
            with mock.patch.object(limits, "_unbound", with_signals), self.assertRaises(RequestError):
                limits.limited(60, "this", lambda: limits.bounded(1 << 30, lambda: None))
            self.assertGreater(len(came), 0)
            self.assertEqual(resource.getrlimit(resource.RLIMIT_AS), limit)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
            limits.watch(None)
            signal.signal(signal.SIGALRM, before)

    def test_arguments_of_a_template_are_its_variables_only(self):
        server, sink = make_server()
        render = {"t": "render", "messages": '[{"role":"user","content":"hi"}]'}
        for name, value in (
            ("chat_template", "mine"), ("padding", "max_length"), ("max_length", 1 << 40), ("truncation", True), ("return_tensors", "np"),
            ("tokenizer_kwargs", {}), ("sanitize_control_tokens", False), ("continue_final_message", True), ("tokenize", True),
        ):
            for plain in (False, True):
                server._serve(render | {"id": 2, "plain": plain, "template_arguments": json.dumps({name: value, "x": 1})})
                answer = sink.messages[-1]
                self.assertEqual((answer["t"], answer.get("code")), ("error", "invalid_option"), name)
                self.assertEqual(answer["data"], {"option": "TemplateArguments"})
                self.assertIn(name, answer["message"])
        server._loaded.tokenizer.chat_template = "{{ documents[0].text }} {{ enable_thinking }} {{ x }}"
        arguments = json.dumps({"documents": [{"title": "", "text": "d"}], "enable_thinking": False, "x": 1})
        server._serve(render | {"id": 3, "template_arguments": arguments})
        self.assertEqual(sink.messages[-1].get("text"), "d False 1", sink.messages[-1])

    def test_templates_that_loop_end(self):
        server, sink = make_server()
        limits.install()
        nested = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        server._loaded.tokenizer.chat_template = nested
        model.RENDER_SECONDS, before = 0.3, model.RENDER_SECONDS
        try:
            begin = time.monotonic()
            server._serve({"t": "render", "id": 2, "messages": '[{"role":"user","content":"hi"}]'})
            self.assertLess(time.monotonic() - begin, 600)  # the loops would take hours
            self.assertEqual(sink.messages[-1]["code"], "bad_request")
        finally:
            model.RENDER_SECONDS = before

        def cancel():
            server._cancelled[3] = time.monotonic()
            limits.nudge()

        timer = threading.Timer(0.3, cancel)
        timer.start()
        server._serve(GENERATE | {"id": 3, "text": "", "messages": '[{"role":"user","content":"hi"}]'})
        timer.join()
        self.assertEqual((sink.messages[-1]["t"], sink.messages[-1]["id"]), ("cancelled", 3))

    def test_a_list_of_texts_is_prepared_in_turns_with_streams(self):
        """Each text may take as long as its template does: the others must not wait for all, nor the supervisor take it for a hang."""
        server, sink = make_server()
        server._serve(GENERATE | {"id": 2, "max_tokens": 30})
        prompt_ids = server._loaded.prompt_ids

        def slowly(form):
            time.sleep(2 * turns.TURN)
            return prompt_ids(form)

        with mock.patch.object(server._loaded, "prompt_ids", slowly):
            texts = [f"text {i}" for i in range(20)]
            server._serve({"t": "classify", "id": 3, "from": 0, "texts": texts, "labels": ["a", "b"], "completes": True})
            work = server._progress.work
            for _ in range(20):
                server._step()
                self.assertGreater(server._progress.work, work)
                work = server._progress.work
            self.assertFalse([m for m in sink.messages if m["id"] == 3])
            self.assertGreaterEqual(len(self.tokens(sink, 2)), 15)
            run(server)
        (result,) = [m for m in sink.messages if m["id"] == 3]
        self.assertEqual(len(result["scores"]), 20)
        # Where that takes no time it takes no turns either.
        steps = []
        with mock.patch.object(turns.time, "monotonic", lambda: 0):
            job = scoring.classify(server._loaded, {"from": 0, "texts": texts, "labels": ["a", "b"], "completes": True})
            try:
                while True:
                    steps.append(next(job))
            except StopIteration as end:
                self.assertEqual(end.value["scores"], result["scores"])
        self.assertLess(len(steps), 5)

    @unittest.skipUnless(sys.platform == "linux", "other systems have no such limit")
    def test_templates_that_fill_the_memory_end(self):
        double = "{%% set ns = namespace(s='x' * 1000) %%}{%% for i in range(%d) %%}{%% set ns.s = ns.s ~ ns.s %%}{%% endfor %%}{{ ns.s }}"
        for template, code in (
            ("{{ 'x' * (3 * 10 ** 9) }}", "out_of_memory"),
            ("{% set x = [0] * (10 ** 9) %}{{ x | length }}", "out_of_memory"),
            (double % 22, "out_of_memory"),
            (double % 17, "bad_request"),  # it fits, and is longer than any message
        ):
            server, sink = make_server()
            before = resource.getrlimit(resource.RLIMIT_AS)
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            server._loaded.tokenizer._tokenizer.chat_template = template
            chat = {"messages": '[{"role": "user", "content": "x"}]'}
            server._serve({"t": "render", "id": 2, **chat})
            server._serve(GENERATE | {"id": 3, "text": "", **chat})
            server._serve(GENERATE | {"id": 4, "text": "", "plain": True, **chat})
            self.assertEqual([(m["id"], m.get("code")) for m in sink.messages[1:]], [(2, code), (3, code), (4, code)], template)
            self.assertIn("chat template: ", sink.messages[-1]["message"])
            self.assertEqual(resource.getrlimit(resource.RLIMIT_AS), before)
            self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used, 2 << 20, template)  # KiB
        server._loaded.tokenizer._tokenizer.chat_template = "{{ messages[0].content }}"
        server._serve(GENERATE | {"id": 5, "text": "", **chat})
        run(server)
        self.assertEqual(len(self.tokens(sink, 5)), 12)

    def test_a_limit_that_passes_in_c_code_ends_the_request_and_not_the_worker(self):
        limits.install()
        for _ in range(5):
            with self.assertRaises(RequestError):  # the signal waits until the call is over, and comes when its caller goes on
                limits.limited(0.01, "this", lambda: hashlib.pbkdf2_hmac("sha256", b"x", b"x", 400_000))
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0.0, 0.0))
        self.assertEqual(limits.limited(60, "this", lambda: 1), 1)
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0.0, 0.0))

    def test_memory_errors_have_their_code(self):
        for text in (
            "[malloc_or_wait] Unable to allocate 100 bytes.",
            "[metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum allowed buffer size of 2 bytes.",
            "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "[cuda::malloc] failed", "cudaMallocAsync(&data, size, stream) failed: out of memory", "std::bad_alloc",
            "[metal::malloc] Resource limit (499000) exceeded.", "[cuda_malloc] 12 bytes", "CUDA_ERROR_OUT_OF_MEMORY",
            "cuBLAS call failed: CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
            "[Errno 12] Cannot allocate memory", "could not allocate 7 bytes", "not enough memory: you tried to allocate 7 bytes",
            "kIOGPUCommandBufferCallbackErrorOutOfMemory", "out of device memory", "memory allocation failed",
        ):
            self.assertEqual(error_message(1, RuntimeError(text))["code"], "out_of_memory", text)
        self.assertEqual(error_message(1, OSError(errno.ENOMEM, "x"))["code"], "out_of_memory")
        for text in ("[matmul] shapes", "no room for that token", "memory", "run out of tokens; memory is fine"):
            self.assertEqual(error_message(1, RuntimeError(text))["code"], "internal", text)

    def test_an_error_that_comes_of_one_about_memory_is_one(self):
        def chain(raise_second):
            try:
                try:
                    raise MemoryError("all gone")
                except MemoryError as e:
                    raise_second(e)
            except Exception as e:
                return error_message(1, e)["code"]

        def from_it(e):
            raise ValueError("the model is broken") from e

        def while_handling_it(e):
            raise ValueError("the model is broken")

        def instead_of_it(e):
            raise ValueError("the model is broken") from None

        self.assertEqual(chain(from_it), "out_of_memory")
        self.assertEqual(chain(while_handling_it), "out_of_memory")
        self.assertEqual(chain(instead_of_it), "internal")

    def test_what_is_no_exception_of_python_ends_its_request_only(self):
        """Libraries in Rust tell a panic by a BaseException, and a checkpoint's own code may call exit()."""

        class Panic(BaseException):
            pass

        want, where = self.alone(), self.alone("Where")
        for error in (Panic("index out of bounds"), SystemExit(3), GeneratorExit(), asyncio.CancelledError()):
            name = type(error).__name__

            def fail(*_, **__):
                raise error

            # As it is let in, in a small call, in a template, in its text, in a processor of the batch, and in the pass.
            server, sink = make_server()
            with mock.patch.object(server._loaded.tokenizer._tokenizer, "encode", fail):
                server._serve(GENERATE | {"id": 2})
                server._serve({"t": "encode", "id": 3, "text": "x", "special": True})
            with mock.patch.object(server._loaded.tokenizer._tokenizer, "apply_chat_template", fail):
                server._serve({"t": "render", "id": 4, "messages": "[]"})
            server._serve(GENERATE | {"id": 5})
            server._stepper.find(5)._matcher.add = fail
            with mock.patch("go_mlx_worker.stream.make_processors", lambda _: [fail]):
                server._serve(GENERATE | {"id": 6})
            server._serve(GENERATE | {"id": 8, "text": "Where", "max_tokens": 40})
            run(server)
            errors = {m["id"]: m["code"] for m in sink.messages if m["t"] == "error"}
            self.assertEqual(sorted(errors), [2, 3, 4, 5, 6], name)
            self.assertEqual(self.tokens(sink, 8), where, name)
            # What a pass of several ends in is one request's, too.
            server, sink = make_server()
            server._serve(GENERATE | {"id": 2, "max_tokens": 40})
            server._serve(GENERATE | {"id": 9, "text": "", "ids": [5, 4100, 7, 8]})
            loaded = server._loaded.model

            class Broken(type(loaded)):
                def __call__(self, inputs, *args, **kwargs):
                    if 4100 in inputs.flatten().tolist():
                        raise error
                    return super().__call__(inputs, *args, **kwargs)

            loaded.__class__ = Broken
            run(server)
            self.assertEqual([m["id"] for m in sink.messages if m["t"] == "error"], [9], name)
            self.assertEqual(self.tokens(sink, 2), want, name)

    def test_an_interrupt_ends_the_worker(self):
        server, _ = make_server()
        with mock.patch.object(server._loaded.tokenizer._tokenizer, "encode", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                server._serve({"t": "encode", "id": 3, "text": "x", "special": True})

    def test_errors_that_cause_each_other_have_an_end(self):
        one, other = ValueError("one"), ValueError("other")
        one.__cause__, other.__cause__ = other, one
        self.assertEqual(error_message(1, one)["code"], "internal")
        server, sink = make_server()
        with mock.patch.object(plain, "encode_marked_chat", side_effect=ValueError("of the library")):
            server._serve({"t": "classify", "id": 2, "from": 0, "texts": ["a"], "labels": ["x", "y"], "completes": True})
            run(server)
        self.assertEqual((sink.messages[-1]["id"], sink.messages[-1]["code"]), (2, "internal"))

    def test_an_error_whose_text_cannot_be_made_is_an_error(self):
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        self.assertEqual(error_message(1, Odd())["code"], "internal")


if __name__ == "__main__":
    unittest.main()
