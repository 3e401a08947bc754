"""Tests of grammars in the worker: python -m unittest discover tests/python."""

import sys
import unittest
from pathlib import Path
from unittest import mock

import mlx.core as mx

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "python"))

from mlx_lm.utils import load_tokenizer

from go_mlx_worker.errors import RequestError
from go_mlx_worker.grammar import Grammars, byte_letters, token_bytes


class GrammarTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = load_tokenizer(ROOT / "tests" / "models" / "assistant")
        cls.size = cls.tokenizer._tokenizer.backend_tokenizer.get_vocab_size()
        cls.grammars = Grammars(cls.tokenizer, cls.size)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def allowed(self, follower, tokens):
        logits = follower(mx.array(tokens), mx.zeros((1, self.size)))
        return {i for i, v in enumerate(logits[0].tolist()) if v == 0}

    def test_every_byte_has_a_letter_of_its_own(self):
        letters = byte_letters()
        self.assertEqual(sorted(letters.values()), list(range(256)))
        self.assertEqual((letters["Ġ"], letters["Ċ"], letters["A"]), (32, 10, 65))

    def test_only_special_tokens_stand_for_no_text(self):
        words, special = token_bytes(self.tokenizer._tokenizer.backend_tokenizer, self.size + 2)
        (call,) = self.ids("<tool_call>")
        self.assertEqual(words[call], b"<tool_call>")
        self.assertNotIn(call, special)
        self.assertIn(self.tokenizer.eos_token_id, special)
        self.assertEqual(special[-2:], [self.size, self.size + 1])

    def test_drafts_that_are_rejected_are_taken_back(self):
        prompt, text = self.ids("Where"), self.ids("ab12")
        straight = self.grammars.follow({"kind": "regex", "text": "ab[0-9]{2}"})
        want = [self.allowed(straight, prompt + text[:n]) for n in range(len(text) + 1)]
        other = self.grammars.follow({"kind": "regex", "text": "ab[0-9]{2}"})
        self.allowed(other, prompt)
        for n in (1, 2, 3, 1, 2, len(text), 2, 3, len(text)):  # further, and back again
            n = min(n, len(text))
            self.assertEqual(self.allowed(other, prompt + text[:n]), want[n])
        self.assertEqual(want[-1], {t for t in self.tokenizer.eos_token_ids})

    def test_behind_the_end_nothing_is_forbidden(self):
        follower = self.grammars.follow({"kind": "choices", "text": '["a"]'})
        self.allowed(follower, self.ids("Where"))
        ended = self.ids("Where") + self.ids("a") + [self.tokenizer.eos_token_id]
        self.assertEqual(len(self.allowed(follower, ended)), self.size)

    def test_what_breaks_the_grammar_is_an_error(self):
        follower = self.grammars.follow({"kind": "choices", "text": '["a"]'})
        self.allowed(follower, self.ids("Where"))
        with self.assertRaisesRegex(RequestError, "the text cannot go on"):
            self.allowed(follower, self.ids("Where") + self.ids("b"))

    def test_a_grammar_that_becomes_too_complex_says_so(self):
        names = [f"s{i}" for i in range(2100)]  # more than the library follows at once
        rules = "\n".join(f'{name}: "a" {name} | "b"' for name in names)
        follower = self.grammars.follow({"kind": "lark", "text": f'start: "x" many\nmany: {" | ".join(names)}\n{rules}'})
        self.allowed(follower, self.ids("Where"))
        with self.assertRaisesRegex(RequestError, "the text cannot go on: .*items") as caught:
            self.allowed(follower, self.ids("Where") + self.ids("x"))
        self.assertNotIn("<state>", str(caught.exception))

    def test_a_missing_package_is_named(self):
        with mock.patch.dict(sys.modules, {"llguidance": None}), self.assertRaises(RequestError) as caught:
            Grammars(self.tokenizer, self.size).follow({"kind": "json_schema", "text": "{}"})
        self.assertIn("requirements.txt", str(caught.exception))
        self.assertEqual(caught.exception.data["option"], "JSONSchema")

    def test_grammars_that_cannot_be_read_are_refused(self):
        for kind, text, option in (("regex", "(", "Regex"), ("json_schema", "{", "JSONSchema"), ("choices", "{}", "Choices"), ("lark", "start: nothing", "Grammar")):
            with self.assertRaises(RequestError) as caught:
                self.grammars.follow({"kind": kind, "text": text})
            self.assertEqual(caught.exception.data["option"], option)


if __name__ == "__main__":
    unittest.main()
