"""The encoding of a text file: by its byte order mark, else UTF-8; for other bytes an error that guesses. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

from lookalike.errors import BadCatalogue, BadSettings

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What tables from shops are written in besides UTF-8. Asked about more encodings, charset-normalizer takes short German
# and French tables for Czech or Chinese ones.
_GUESSES = ("cp932", "euc_jp", "cp949", "gb18030", "big5", "cp1251", "cp1252")
_NAMES = {
    "cp932": "Shift-JIS, as Windows writes it",
    "euc_jp": "EUC-JP",
    "iso2022_jp": "ISO-2022-JP, as e-mails are",
    "utf-16-le": "UTF-16 without a byte order mark",
    "utf-16-be": "UTF-16 without a byte order mark",
    "cp949": "Korean",
    "gb18030": "Chinese",
    "big5": "Chinese",
    "cp1251": "Cyrillic",
    "cp1252": "Western European, as Windows writes it",
}
_SAMPLE_BYTES = 1 << 16
# First bytes of two, but for those that are Western quotes, dashes and the like.
_SHIFT_JIS_BYTES = re.compile(rb"[\x81-\x84\x86-\x90\x98\x9a-\x9f][\x40-\x7e\x80-\xfc]")
_SEPARATORS = re.compile(r'[,;:"\t\n]')
_SEPARATOR_BYTES = re.compile(rb'[,;:"\t\n]')
_CYRILLIC = re.compile(r"[\u0410-\u044f]{2}")
_KANA = re.compile(r"[\u3041-\u30ff]")
# The escape sequence before Japanese letters in ISO-2022-JP, whose bytes are all ASCII.
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")

MARK = "\udcff"  # What replaces bytes that are not of the encoding: a lone surrogate, which no text contains.
ERRORS = "lookalike-mark"  # The name of the error handler that does so, for `open` and `bytes.decode`.


class NotUtf8(BadCatalogue):
    """A text file is in another encoding; the message says in which it seems to be."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    return MARK, error.end  # type: ignore[attr-defined]  # as the handlers of every decoder are called


codecs.register_error(ERRORS, _mark)


def check_encoding(name: str) -> str:
    """The name of a text encoding as Python knows it; empty stays empty. Raises BadSettings for an unknown one."""
    try:
        if name and not codecs.lookup(name)._is_text_encoding:
            raise LookupError
        # With a byte order mark at the start, an encoding that leaves it in the text would make it part of a name.
        return {"utf-8": "utf-8-sig"}.get(codecs.lookup(name).name, name) if name else ""
    except LookupError:
        raise BadSettings(f"--encoding {name}: not a text encoding; for example utf-8, cp932, euc_jp, utf-16") from None


def detect_encoding(name: str, chunks: Iterable[bytes]) -> str:
    """The encoding of a file that is read in chunks: its byte order mark's, else UTF-8.

    A file that is UTF-8 but for single rows is UTF-8; its other bytes become MARK.
    name: of the file, for the error. Raises NotUtf8, with a guess and what to do, if the file is not UTF-8.
    """
    decoder, before = codecs.getincrementaldecoder("utf-8")(), b""
    for number, chunk in enumerate(chunks):
        if number == 0:
            for mark, encoding in _BYTE_ORDER_MARKS:
                if chunk.startswith(mark):
                    return encoding
            _refuse_ascii_encodings(name, chunk[:_SAMPLE_BYTES])
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            # The error counts from the few bytes that the decoder had kept.
            start = max(0, len(before) + error.start - len(decoder.getstate()[0]) - _SAMPLE_BYTES // 2)
            sample = (before + chunk)[start : start + _SAMPLE_BYTES]
            if _is_mostly_utf8(sample):
                return "utf-8-sig"
            raise _not_utf8(name, guess_encoding(sample[_line_start(sample, start) :])) from None
        before = chunk[-_SAMPLE_BYTES:]
    return "utf-8-sig"


def guess_encoding(sample: bytes) -> str:
    """The most likely encoding of bytes that are not UTF-8. cp1252, which nearly all bytes are, is the last choice."""
    from charset_normalizer import from_bytes

    for encoding in ("utf-16-le", "utf-16-be"):
        if _is_utf16(sample[: len(sample) // 2 * 2], encoding):
            return encoding
    # Of a short table charset-normalizer takes Japanese for Korean, Chinese or Western text. Kana decide, and in
    # Shift-JIS the first bytes of letters, which are rare signs in other encodings.
    for encoding in ("euc_jp", "cp932"):
        if _KANA.search(_decoded(sample, encoding)):
            return encoding
    if _SHIFT_JIS_BYTES.search(sample) and _decoded(sample, "cp932"):
        return "cp932"
    best = from_bytes(sample, cp_isolation=list(_GUESSES)).best()
    guess = best.encoding if best else "cp932" if _decoded(sample, "cp932") else "cp1252"
    # Quotes and signs alone have the same bytes in both.
    return "cp1252" if guess == "cp1251" and not _CYRILLIC.search(_decoded(sample, "cp1251")) else guess


def _refuse_ascii_encodings(name: str, sample: bytes) -> None:
    """Refuse encodings whose bytes are valid UTF-8: UTF-16 of ASCII letters, and ISO-2022-JP."""
    for encoding in ("utf-16-le", "utf-16-be"):
        if _is_utf16(sample[: len(sample) // 2 * 2], encoding):
            raise _not_utf8(name, encoding)
    if _ISO_2022_JP.search(sample):
        raise _not_utf8(name, "iso2022_jp")


def _is_utf16(sample: bytes, encoding: str) -> bool:
    """Whether the line ends and separators of a table are there as 16-bit letters, and not as bytes among others."""
    if not sample[1 if encoding == "utf-16-le" else 0 :: 2].count(0):
        return False
    letters = _SEPARATORS.findall(sample.decode(encoding, "replace"))
    return len(letters) >= 2 and 2 * len(letters) >= len(_SEPARATOR_BYTES.findall(sample))


def _decoded(data: bytes, encoding: str) -> str:
    """The text of bytes, whose last letter may be incomplete; empty if they are not of the encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return ""


def _line_start(sample: bytes, start: int) -> int:
    """Where the first whole line of a sample begins: a sample from within a file may begin within a letter."""
    return sample.find(b"\n") + 1 if start else 0


def _is_mostly_utf8(sample: bytes) -> bool:
    """Whether more lines with letters beyond ASCII are UTF-8 than not."""
    balance = 0
    for line in re.split(rb"[\r\n]", sample):
        if not line.isascii():
            balance += 1 if _decoded(line, "utf-8") else -1
    return balance > 0


def _not_utf8(name: str, encoding: str) -> NotUtf8:
    return NotUtf8(
        f"{name} is not UTF-8; it looks like {encoding} ({_NAMES[encoding]}): give --encoding {encoding}, "
        "or --encoding utf-8 to skip the rows that are not"
    )
