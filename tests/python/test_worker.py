"""Tests of the worker's own code: python -m unittest discover tests/python."""

import io
import random
import struct
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "python"))

from go_mlx_worker.frames import MAX_FRAME, FrameError, encode_frame, read_frame
from go_mlx_worker.text import StopMatcher, StreamDecoder

GO_FRAMES = {
    "cancel": {"t": "cancel", "id": 3},
    "credit": {"t": "credit", "id": 3, "n": 32},
    "load": {"t": "load", "id": 1, "path": "/m", "trust_remote_code": False, "adapter": "/a", "batch": 32, "prompt_cache": 1 << 20},
    "generate": {
        "t": "generate",
        "id": 6,
        "ids": [2, 7],
        "resume": [9],
        "max_tokens": 0,
        "temperature": 0,
        "top_k": 0,
        "top_p": 0,
        "min_p": 0,
        "xtc_probability": 0,
        "xtc_threshold": 0,
        "repetition_penalty": 0,
        "repetition_context": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logit_bias": [[3, -1.5]],
        "seed": (1 << 63) + 1,
        "stop": [],
        "stop_tokens": [],
        "ignore_eos": False,
        "logprobs": False,
        "top_logprobs": 0,
        "segments": False,
        "kv_bits": 0,
        "kv_group_size": 0,
        "kv_start": 0,
        "max_kv_size": 0,
        "draft_tokens": 0,
        "solo": False,
        "credit": 64,
    },
    "encode": {"t": "encode", "id": 4, "text": "é", "special": True},
    "classify": {"t": "classify", "id": 5, "from": 2, "texts": ["a"], "labels": ["x", "y"]},
}


class Frames(unittest.TestCase):
    def test_round_trip(self):
        message = {"t": "token", "id": 1, "text": "é", "top": [[1, -0.5]]}
        stream = io.BytesIO(encode_frame(message) * 2)
        self.assertEqual(read_frame(stream), message)
        self.assertEqual(read_frame(stream), message)
        self.assertIsNone(read_frame(stream))

    def test_golden_frames_of_go(self):
        found = 0
        for line in (ROOT / "tests/golden/frames.txt").read_text().splitlines():
            side, name, code = line.split()
            data = bytes.fromhex(code)
            message = read_frame(io.BytesIO(data))
            if side == "go":
                self.assertEqual(message, GO_FRAMES[name])
                found += 1
            else:
                self.assertEqual(encode_frame(message), data)
        self.assertEqual(found, len(GO_FRAMES))

    def test_broken_frames(self):
        for name, data in {
            "cut in the length": b"\0\0",
            "cut in the body": b"\0\0\0\x09\x80",
            "oversize": struct.pack(">I", MAX_FRAME + 1),
            "not a map": struct.pack(">I", 1) + b"\x05",
            "not msgpack": struct.pack(">I", 1) + b"\xc1",
            "text": b"Loading the model\n",
        }.items():
            with self.subTest(name), self.assertRaises(FrameError):
                read_frame(io.BytesIO(data))

    def test_random_bytes_never_raise_anything_else(self):
        rng = random.Random(1)
        for _ in range(5000):
            data = struct.pack(">I", rng.randrange(40)) + rng.randbytes(rng.randrange(40))
            stream = io.BytesIO(data)
            try:
                while read_frame(stream) is not None:
                    pass
            except FrameError:
                pass


class Start(unittest.TestCase):
    def test_few_open_files_are_enough(self):
        """mlx-lm asks for 4096, which a lower hard limit forbids."""
        code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\nfrom go_mlx_worker.__main__ import allow_any_file_limit\nallow_any_file_limit()\nfrom go_mlx_worker import requirements\nrequirements.check()"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT / "python", check=True)


class Stops(unittest.TestCase):
    def test_finds_what_a_whole_search_finds(self):
        rng = random.Random(2)
        word = lambda n: "".join(rng.choice("ab ") for _ in range(n))
        for _ in range(2000):
            stops = [word(rng.randint(1, 4)) for _ in range(rng.randint(1, 3))]
            whole, matcher, got, end, stopped = word(rng.randrange(30)), StopMatcher(stops), "", 0, ""
            while end < len(whole) and not stopped:
                n = rng.randint(1, 4)
                text, stopped = matcher.add(whole[end : end + n])
                got, end = got + text, min(end + n, len(whole))
            if not stopped:
                got += matcher.finish()
            found = [i for i in (whole[:end].find(s) for s in stops) if i >= 0]
            self.assertEqual(bool(found), bool(stopped), (stops, whole))
            if found:
                self.assertIn(stopped, stops)
                self.assertTrue(whole[min(found) :].startswith(stopped))
            self.assertEqual(got, whole[: min(found)] if found else whole, (stops, whole))


class Decoding(unittest.TestCase):
    def test_pieces_are_the_whole_text(self):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(ROOT / "tests/models/domains"))
        for text in ("Where can I find it?", "日本語 🏳️‍🌈 ok", " leading", "a\n\nb", ""):
            ids = tokenizer.encode(text, add_special_tokens=False)
            decoder = StreamDecoder(tokenizer)
            pieces = [decoder.add(i) for i in ids]
            self.assertNotIn("\ufffd", "".join(pieces))
            self.assertEqual("".join(pieces) + decoder.finish(), text)


if __name__ == "__main__":
    unittest.main()
