"""Vectors in the worker: rows of a batch do not touch each other, and models that have none say so."""

import struct
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python"))

import mlx.core as mx  # noqa: E402

from go_mlx_worker.embedding import Embedder, embed  # noqa: E402
from go_mlx_worker.errors import RequestError  # noqa: E402
from go_mlx_worker.model import LoadedModel  # noqa: E402

MODEL = str(ROOT / "tests/models/domains")


def finish(job):
    passes = 0
    while True:
        try:
            next(job)
            passes += 1
        except StopIteration as end:
            return end.value, passes


class Embedding(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.loaded = LoadedModel({"path": MODEL, "trust_remote_code": False})

    def vectors(self, ids):
        request = {"from": 0, "texts": [""] * len(ids), "ids": ids, "prompt": "", "dimensions": 0}
        result, passes = finish(embed(self.loaded, request))
        n = result["size"]
        return [struct.unpack_from(f"<{n}f", result["vectors"], 4 * n * i) for i in range(len(ids))], passes

    def test_what_fills_a_row_up_has_no_influence(self):
        rows = [[2, 5, 9], [2] + [7] * 200, [2, 11], list(range(10, 60))]
        together, passes = self.vectors(rows)
        self.assertEqual(passes, 1)
        for row, vector in zip(rows, together):
            (alone,), _ = self.vectors([row])
            a, b = mx.array(alone), mx.array(vector)
            self.assertGreater((a @ b / mx.linalg.norm(a) / mx.linalg.norm(b)).item(), 0.9995)

    def test_a_long_list_is_several_passes(self):
        _, passes = self.vectors([[2] * 1500] * 5)
        self.assertEqual(passes, 5)

    def test_a_class_without_hidden_states_is_named(self):
        class Bare:
            pass

        class Odd:
            def model(self, x, cache=None):
                return mx.zeros((1, 1), mx.int32)

        class Failing:
            def model(self, x):
                return x

        for model, reason in ((Bare(), "no part"), (Odd(), "not a hidden state"), (Failing(), "fails: TypeError")):
            embedder = Embedder(model, {"model_type": "odd"}, MODEL)
            with self.assertRaises(RequestError) as caught:
                embedder.prepare()
            self.assertEqual((caught.exception.code, caught.exception.data), ("no_embeddings", {"architecture": "odd"}))
            self.assertIn(reason, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
