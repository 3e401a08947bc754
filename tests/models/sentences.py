"""Prints sentences of the corpus as JSON lines with their domains, as examples/go-i18n reads them.

    python tests/models/sentences.py COUNT [SEED] > sentences.jsonl
"""

import json
import sys

import corpus

sampler = corpus.Sampler(int(sys.argv[2]) if len(sys.argv) > 2 else 11)
for i in range(int(sys.argv[1])):
    text, domain = sampler.pair()
    print(json.dumps({"id": i, "prompt": text, "truth": domain}, ensure_ascii=False))
