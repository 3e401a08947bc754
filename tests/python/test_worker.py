"""Tests of the worker's own code: python -m unittest discover tests/python."""

import io
import random
import shutil
import struct
import subprocess
import sys
import time
import tempfile
import unittest
from pathlib import Path

import mlx.core as mx

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "python"))

from go_mlx_worker.errors import RequestError
from go_mlx_worker.frames import MAX_FRAME, FrameError, encode_frame, read_frame
from go_mlx_worker.model import LoadedModel, checkpoint_bytes
from go_mlx_worker.sampling import make_processors, make_sampler
from go_mlx_worker.scoring import classify
from go_mlx_worker.stream import Stream
from go_mlx_worker.text import StopMatcher, StreamDecoder, byte_tokens

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
    "embed": {"t": "embed", "id": 7, "from": 1, "texts": ["a"], "ids": [[2]], "prompt": "query", "dimensions": 128},
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


    def test_a_name_that_moved_is_told_in_one_line(self):
        code = "import mlx_lm.generate, sys\ndel sys.modules['mlx_lm.generate'].generation_stream\nfrom go_mlx_worker.__main__ import main\nmain()"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "python", capture_output=True, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"hello", done.stdout, "the versions are told first")
        lines = [l for l in done.stderr.decode().splitlines() if l]
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("lacks what the worker needs (mlx_lm.generate.generation_stream)", lines[0])


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


    def test_a_stop_string_may_be_longer_than_any_text(self):
        matcher = StopMatcher(["x" * (1 << 20)])
        begin = time.process_time()
        for _ in range(200):
            self.assertEqual(matcher.add("a"), ("a", ""))
        self.assertLess(time.process_time() - begin, 10, "every token took as long as the stop string is")
        self.assertEqual(matcher.add("bxx"), ("b", ""))
        self.assertEqual(matcher.add("xa"), ("xxxa", ""))


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

    def test_pieces_of_random_ids_are_the_whole_text(self):
        from mlx_lm.utils import load_tokenizer

        tokenizer = load_tokenizer(ROOT / "tests/models/domains")
        self.assertEqual(len(byte_tokens(tokenizer)), 256)
        rng = random.Random(5)
        cut = tokenizer.encode("𓀀𓁐", add_special_tokens=False)
        rows = [cut[:n] for n in range(len(cut) + 1)] + [cut[:4] + [1] + cut[4:6], cut[:4] + [300] + cut[4:6], cut[:4] + [9999] + cut[4:]]
        rows += [[rng.choice((rng.randrange(4160), 6 + rng.randrange(300))) for _ in range(rng.randrange(20))] for _ in range(400)]
        for ids in rows:
            for skip in (True, False):
                decoder = StreamDecoder(tokenizer, skip_special=skip)
                pieces = [decoder.add(i) for i in ids]
                whole = tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
                self.assertEqual("".join(pieces) + decoder.finish(), whole, ids)


class TokensBeyondTheTable(unittest.TestCase):
    """Tokens that a tokenizer has and the model does not: MLX would read or write past its arrays."""

    class Tokenizer:
        eos_token_ids = (1, 5, 1 << 30, None)

        def convert_tokens_to_ids(self, name):
            return None

    def loaded(self, ids):
        loaded = LoadedModel.__new__(LoadedModel)
        loaded.vocab_size, loaded.context_length, loaded.has_template = 5, 0, False
        loaded.encode = lambda text, special: ids[text]
        loaded.tokenizer = self.Tokenizer()
        return loaded

    def test_labels_are_refused(self):
        loaded = self.loaded({"good": [1, 4], "bad": [1, 5]})
        with self.assertRaises(RequestError) as refused:
            list(classify(loaded, {"texts": [], "labels": ["good", "bad"], "from": 0}))
        self.assertEqual(refused.exception.code, "invalid_option")

    def test_end_tokens_are_left_out_of_the_sampler(self):
        loaded = self.loaded({"a": [2], "\n": [3, 7]})
        stream = Stream(loaded, GO_FRAMES["generate"] | {"ids": [2], "resume": [], "logit_bias": [], "temperature": 1})
        self.assertEqual(sorted(stream._special), [1, 3])


class Folders(unittest.TestCase):
    def test_folders_with_any_name_load(self):
        for name in ("a[b]", "a[b", "*"):
            with tempfile.TemporaryDirectory() as above:
                folder = Path(above, name)
                shutil.copytree(ROOT / "tests/models/domains", folder)
                loaded = LoadedModel({"path": str(folder), "trust_remote_code": False, "draft": str(folder)})
                self.assertEqual(loaded.vocab_size, 4160)
                self.assertEqual(len(loaded.info()["tokenizer_hash"]), 16)
                self.assertGreater(checkpoint_bytes(folder), 1 << 20)


class Ranges(unittest.TestCase):
    def test_options_of_any_size_leave_numbers(self):
        row = [-9, -9, 9, 1, -9, -9]
        request = GO_FRAMES["generate"] | {
            "top_p": 1, "repetition_penalty": 1, "repetition_context": 20, "logit_bias": [], "seed": 1, "temperature": 1e-6,
        }
        huge = 3.4028234663852886e38
        for option, values in {
            "temperature": {1e-4: 2, 1e-5: 2, 1e-30: 2, 1e-38: 2, 1e-45: 2},
            "logit_bias": {60000: 3, 1e5: 3, huge: 3, -1e5: 2, -huge: 2},
            "presence_penalty": {1e5: 3, huge: 3, -1e5: 2, -huge: 2},
            "frequency_penalty": {1e4: 3, huge: 3, -1e4: 2, -huge: 2},
            "repetition_penalty": {1e5: 3, huge: 3, 1e-5: 2, 1e-38: 2, 1e-45: 2},
        }.items():
            for value, want in values.items():
                for dtype in (mx.float16, mx.bfloat16, mx.float32):
                    asked = request | {option: [[3, value]] if option == "logit_bias" else value}
                    logits = mx.array([row], dtype)
                    for process in make_processors(asked):
                        logits = process(mx.array([2] * 20), logits)
                    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
                    self.assertFalse(mx.any(mx.isnan(logprobs)).item(), (option, value, dtype))
                    token = make_sampler(asked, [], [])(logprobs)
                    self.assertEqual(token.item(), want, (option, value, dtype))


if __name__ == "__main__":
    unittest.main()
