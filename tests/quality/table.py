"""Prints the reports of build/quality as one table in Markdown: macro-F1 of each language and in total. Reports that are not there yet are left out.

    python tests/quality/table.py build/quality NAME...
"""

import json
import pathlib
import sys

NEW = "cs hu tr ca fi".split()


def f1(predictions):
    labels = {p["truth"] for p in predictions}
    total = 0.0
    for label in labels:
        right = sum(p["truth"] == p["label"] == label for p in predictions)
        total += 2 * right / sum((p["truth"] == label) + (p["label"] == label) for p in predictions)
    return 100 * total / len(labels)


def ece(predictions, bins=10):
    sums = [[0, 0.0, 0] for _ in range(bins)]
    for p in predictions:
        b = sums[min(int(p["probability"] * bins), bins - 1)]
        b[0] += 1
        b[1] += p["probability"]
        b[2] += p["label"] == p["truth"]
    return sum(abs(b[1] - b[2]) for b in sums) / len(predictions)


def main():
    folder, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    reports = {n: json.loads((folder / f"{n}.json").read_text()) for n in names if (folder / f"{n}.json").exists()}
    if not reports:
        return
    languages = sorted({p["language"] for p in next(iter(reports.values()))["predictions"]}, key=lambda x: (x in NEW, x))
    columns = [(x, lambda p, x=x: p["language"] == x) for x in languages]
    columns += [("trained", lambda p: p["language"] not in NEW), ("new", lambda p: p["language"] in NEW), ("all", lambda p: True)]
    print("| | " + " | ".join(c for c, _ in columns) + " | ECE | texts/s |")
    print("|---" * (len(columns) + 3) + "|")
    for name, report in reports.items():
        cells = [f"{f1([p for p in report['predictions'] if within(p)]):.1f}" for _, within in columns]
        print(f"| {name} | " + " | ".join(cells) + f" | {ece(report['predictions']):.3f} | {report.get('texts_per_second', 0):.0f} |")


def kept(report):
    """The share of texts that were not abstained from, and how many of these are right."""
    predictions = json.loads(report.read_text())["predictions"]
    sure = [p for p in predictions if not p.get("unknown", False)]
    return 100 * len(sure) / len(predictions), 100 * sum(p["truth"] == p["label"] for p in sure) / max(len(sure), 1)


def abstaining(folder, names):
    print("\n| | abstains by | known domains: kept | right | other domains: kept |\n|---|---|---|---|---|")
    for name in names:
        for how, end in (("distance", ""), ("energy", "-energy")):
            known, unknown = folder / f"{name}{end}.json", folder / f"{name}-unknown{end}.json"
            if known.exists() and unknown.exists():
                share, right = kept(known)
                print(f"| {name} | {how} | {share:.1f} | {right:.1f} | {kept(unknown)[0]:.1f} |")


def corpus(folder):
    print("\n| domain corpus | right | ECE | texts/s |\n|---|---|---|---|")
    for name in ("gemma-corpus-best", "gemma-corpus", "smollm2-corpus-best", "smollm2-corpus"):
        if (folder / f"{name}.json").exists():
            report = json.loads((folder / f"{name}.json").read_text())
            right = [p["truth"] == p["label"] for p in report["predictions"]]
            print(f"| {name} | {100 * sum(right) / len(right):.1f} | {ece(report['predictions']):.3f} | {report.get('texts_per_second', 0):.0f} |")


main()
corpus(pathlib.Path(sys.argv[1]))
abstaining(pathlib.Path(sys.argv[1]), sys.argv[2:])
