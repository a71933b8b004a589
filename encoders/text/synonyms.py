"""Synonyms: words and phrases in one canonical form, by a dictionary. Reads files.

A dictionary is a text file of groups (docs/synonyms.md): a line has texts that mean the same, the canonical one first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lookalike.errors import BadArtifact, OperatorError

# From the most general to the most special: a later one may change what an earlier one says.
DEFAULT_DICTIONARIES = tuple(
    Path(__file__).with_name("dictionaries") / name for name in ("sudachi.txt", "product-words.txt")
)
MAX_BYTES = 16 << 20  # Of a file: a third of a million groups.
MAX_PHRASE_WORDS = 8

Words = tuple[str, ...]
Split = Callable[[str], Sequence[str]]

_ARROW = "=>"
_ENGLISH = re.compile(r"[a-z]{3,}")


class BadDictionary(OperatorError):
    """A dictionary of synonyms cannot be read, or a line of it is not in the format."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a dictionary: texts that are replaced, and the text that replaces them; "" keeps them as they are."""

    where: str  # FILE:LINE
    texts: tuple[str, ...]
    canonical: str
    one_way: bool  # Whether the canonical text is of no group of its own: A, B => C.


class Synonyms:
    """Replaces words and phrases, the longest first, by their canonical words."""

    def __init__(self, canonical: Mapping[Words, Words]) -> None:
        self.canonical = canonical
        self._lengths: dict[str, tuple[int, ...]] = {}  # First word -> lengths of the phrases, the longest first.
        for phrase in sorted(canonical, key=len, reverse=True):
            lengths = self._lengths.get(phrase[0], ())
            if len(phrase) not in lengths:
                self._lengths[phrase[0]] = (*lengths, len(phrase))

    def __call__(self, words: Sequence[str]) -> list[str]:
        """The words with each phrase replaced. What has replaced a phrase is not replaced again."""
        replaced: list[str] = []
        for start, end in self.phrases(words):
            replaced += self.canonical.get(tuple(words[start:end]), words[start:end])
        return replaced

    def phrases(self, words: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Where each phrase that is replaced as a whole, and each other word, starts and ends."""
        start = 0
        while start < len(words):
            lengths = self._lengths.get(words[start], ())
            found = (length for length in lengths if tuple(words[start : start + length]) in self.canonical)
            end = start + next(found, 1)
            yield start, end
            start = end


NO_SYNONYMS = Synonyms({})


def read_lines(path: Path) -> list[Line]:
    """Read a dictionary. Raises BadDictionary, naming the line, if it cannot be read or is not in the format."""
    data = _read(path)
    try:
        return list(parse_lines(data.decode("utf-8-sig"), str(path)))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadDictionary(f"{path}:{line}: not UTF-8") from error


def dictionary_sha256(path: Path) -> str:
    """SHA-256 of a dictionary in hex. Raises BadDictionary."""
    return sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadDictionary(f"{path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise BadDictionary(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    return data


def parse_lines(text: str, name: str) -> Iterator[Line]:
    """The lines of a dictionary. Raises BadDictionary with NAME:LINE."""
    for number, raw in enumerate(text.splitlines(), 1):
        line = unicodedata.normalize("NFKC", raw.partition("#")[0]).strip()
        if not line:
            continue
        where = f"{name}:{number}"
        left, arrow, right = line.partition(_ARROW)
        texts = tuple(text.strip() for text in left.split(","))
        if not all(texts) or (arrow and not right.strip()) or _ARROW in right or (arrow and "," in right):
            raise BadDictionary(f"{where}: expected TEXT, TEXT or TEXT, TEXT => TEXT, got {line!r}")
        if arrow:
            yield Line(where, texts, right.strip(), one_way=True)
        else:
            yield Line(where, texts, texts[0] if len(texts) > 1 else "", one_way=False)


def compile_synonyms(dictionaries: Sequence[Sequence[Line]], split: Split) -> Synonyms:
    """Compile dictionaries, of which a later one may change an earlier one, for texts that are split by `split`.

    Raises BadDictionary, naming the line: for a text without a word, one of more than MAX_PHRASE_WORDS words, one that
    two lines of a dictionary replace by different texts, and for lines that replace each other's texts in a circle.
    """
    table = _Table(split)
    for lines in dictionaries:
        table.add(lines)
    return Synonyms(table.resolve())


class _Table:
    """Groups of phrases, and the phrase that each group is replaced by."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._group: dict[Words, int] = {}
        self._replacement: dict[int, tuple[Words, str]] = {}  # By group, with the line that says so.

    def add(self, lines: Sequence[Line]) -> None:
        """Add a dictionary: first what leaves its group, then what joins one."""
        stated: dict[Words, Line] = {}
        parsed = [(line, [self._phrase(text, line.where) for text in line.texts]) for line in lines]
        for line, phrases in parsed:
            for phrase in phrases:
                other = stated.setdefault(phrase, line)
                if other is not line:
                    raise BadDictionary(f"{line.where}: {' '.join(phrase)!r} is in {other.where} already")
                if line.one_way or not line.canonical:
                    self._leave(phrase)
                    self._leave(_plural(phrase))
        for line, phrases in parsed:
            if line.canonical:
                self._join(phrases, self._phrase(line.canonical, line.where), line)
        for line, phrases in parsed:
            self._add_plurals(phrases, line, stated)

    def _leave(self, phrase: Words) -> None:
        """Take a phrase out of its group, which is replaced by the next of its phrases if it was by this one."""
        group = self._group.pop(phrase, None)
        if group is not None and self._replacement[group][0] == phrase:
            others = (other for other, its_group in self._group.items() if its_group == group)
            self._replacement[group] = (next(others, phrase), self._replacement[group][1])

    def _join(self, phrases: Sequence[Words], replacement: Words, line: Line) -> None:
        """Make one group of phrases and, unless the line is one-way, the groups that they are in already."""
        group = len(self._replacement)
        if not line.one_way:
            old = {self._group[phrase] for phrase in phrases if phrase in self._group}
            for phrase, other in self._group.items():
                if other in old:
                    self._group[phrase] = group
        self._group.update(dict.fromkeys(phrases, group))
        self._replacement[group] = (replacement, line.where)

    def _add_plurals(self, phrases: Sequence[Words], line: Line, stated: Mapping[Words, Line]) -> None:
        """The regular plurals of English phrases, unless they are known."""
        for phrase in phrases if line.canonical else ():
            plural = _plural(phrase)
            if plural not in stated and plural not in self._group:
                self._group[plural] = self._group[phrase]

    def _phrase(self, text: str, where: str) -> Words:
        words = tuple(self._split(text))
        if not 1 <= len(words) <= MAX_PHRASE_WORDS:
            raise BadDictionary(f"{where}: {text!r} has {len(words)} words, expected 1..{MAX_PHRASE_WORDS}")
        return words

    def resolve(self) -> dict[Words, Words]:
        """The canonical words of each phrase that differs from them."""
        canonical: dict[int, Words] = {}
        resolved = {phrase: self._resolve(group, canonical, ()) for phrase, group in self._group.items()}
        return {phrase: words for phrase, words in resolved.items() if phrase != words or len(phrase) > 1}

    def _resolve(self, group: int, canonical: dict[int, Words], path: Sequence[int]) -> Words:
        """The canonical words of a group: its replacement, in which the phrases of other groups are replaced."""
        if group in path:
            raise BadDictionary(f"{self._replacement[group][1]}: its texts are replaced in a circle")
        if group not in canonical:
            replacement, _ = self._replacement[group]
            words: list[str] = []
            position = 0
            while position < len(replacement):
                phrase = self._longest(replacement, position, group)
                if phrase in self._group and self._group[phrase] != group:
                    words += self._resolve(self._group[phrase], canonical, (*path, group))
                else:
                    words += phrase
                position += len(phrase)
            canonical[group] = tuple(words)
        return canonical[group]

    def _longest(self, words: Words, position: int, group: int) -> Words:
        """The longest phrase of another group at a position; the word there if there is none."""
        for end in range(len(words), position, -1):
            phrase = words[position:end]
            if self._group.get(phrase, group) != group:
                return phrase
        return words[position : position + 1]


def _plural(phrase: Words) -> Words:
    return (*phrase[:-1], english_plural(phrase[-1]))


def english_plural(word: str) -> str:
    """The regular plural of an English word; any other word as it is."""
    if not _ENGLISH.fullmatch(word):
        return word
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def write_table(path: Path, synonyms: Synonyms) -> None:
    """Write a compiled dictionary, as `load_table` reads it: a phrase, a tab and its canonical words per line."""
    lines = sorted(f"{' '.join(phrase)}\t{' '.join(words)}\n" for phrase, words in synonyms.canonical.items())
    path.write_text("".join(lines), encoding="utf-8")


def load_table(path: Path) -> Synonyms:
    """Read a compiled dictionary. Raises BadArtifact."""
    try:
        pairs = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        return Synonyms({tuple(phrase.split(" ")): tuple(words.split(" ")) for phrase, words in pairs})
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
