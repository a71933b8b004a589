"""`lookalike catalog write`: make the changes in a file through one stream. Reads the file."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lookalike.changes import patch_change, remove_change, set_fields, upsert_change
from lookalike.cli import flags
from lookalike.cli.json_lines import numbered_lines
from lookalike.cli.progress import progress_bar
from lookalike.cli.render import printable
from lookalike.errors import InvalidRequest, LookalikeError
from lookalike.product_rules import BadField, parse_field
from lookalike.strict_json import parse_json
from lookalike.v1.catalog_pb2 import Change, ChangeResponse
from lookalike.v1.types_pb2 import Product

_EXAMPLES = """\
examples:
  lookalike catalog write changes.jsonl
  jq -c '{patch: {id: .sku, price: .price, in_stock: (.quantity > 0)}}' stock.jsonl | lookalike catalog write -
  jq -c '{upsert: (. + {keep_vectors: true})}' my-shop/products.jsonl | lookalike catalog write - --json

Each line of FILE is a change:
  {"patch": {"id": "p-17", "price": 4500, "in_stock": false, "expires_at": null, "revision": 1764066600000}}
  {"upsert": {"id": "p-18", "title": "boots", "category": "fashion/shoes", "photo": "boots.jpg", "encode": true}}
  {"upsert": {"id": "p-19", "title": "mug", "category": "home", "vectors": {"image": [0.6, 0.8]}}}
  {"remove": {"id": "p-20"}}
Fields are those of a catalogue; null clears one. Beside them: revision, vectors, encode, photo (a file), and of an
upsert keep_vectors and allow_unfindable. Lines without a revision have that of --revision: then only the first of
several changes of one product is applied.

A line that is no valid change fails, and the others are made. When a change is acknowledged, it is durable; after a
failure of the service the command says with which --after-line to go on. Repeating changes is harmless.

exit status: 0 every change is made, or a newer revision is stored already; 1 a change or the service failed; 2 an
argument is wrong
"""
_MAX_MESSAGES = 100  # Errors and notices that are printed; the rest is only counted.


@dataclass(slots=True)
class _Outcomes:
    """What came of the changes."""

    applied: int = 0
    not_applied: int = 0  # A revision that is not older is stored.
    failed: int = 0
    errors: list[dict[str, object]] = field(default_factory=list)  # At most _MAX_MESSAGES.
    notices: list[dict[str, object]] = field(default_factory=list)  # At most _MAX_MESSAGES.

    def add(self, line: int, outcome: ChangeResponse | LookalikeError) -> None:
        if isinstance(outcome, LookalikeError):
            self.failed += 1
            self._note(self.errors, line, "error", str(outcome))
            return
        self.applied += outcome.applied
        self.not_applied += not outcome.applied
        for notice in outcome.notices:
            self._note(self.notices, line, "notice", notice)

    def __str__(self) -> str:
        parts = [f"{self.applied:,} changes applied"]
        if self.not_applied:
            parts.append(f"{self.not_applied:,} not applied: a revision that is not older is stored")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return "; ".join(parts)

    @staticmethod
    def _note(messages: list[dict[str, object]], line: int, kind: str, text: str) -> None:
        if len(messages) < _MAX_MESSAGES:
            messages.append({"line": line, kind: text})
            print(f"line {line}: {printable(text)}", file=sys.stderr)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = flags.command_parser("catalog write", "Make the changes in a file.", _EXAMPLES)
    parser.add_argument("file", metavar="FILE.jsonl", help="a change per line; - is standard input")
    parser.add_argument("--after-line", type=int, default=0, metavar="N", help="leave out the first N lines")
    parser.add_argument("--batch", type=int, default=500, help="changes in one message, 1..1000 (default: %(default)s)")
    flags.add_revision_flag(parser)
    flags.add_gateway_flags(parser, environ)
    options = parser.parse_args(argv)
    outcomes, last = _Outcomes(), options.after_line
    sent, invalid = deque[int](), deque[tuple[int, InvalidRequest]]()  # Filled by gRPC's thread.

    def changes(lines: Iterator[tuple[int, str]]) -> Iterator[Change]:
        for number, line in lines:
            if number <= options.after_line:
                continue
            try:
                change = parse_change(line, options.revision)
            except InvalidRequest as error:
                invalid.append((number, error))
                continue
            sent.append(number)
            yield change

    def add_invalid() -> None:
        while invalid:
            outcomes.add(*invalid.popleft())

    with (
        numbered_lines("FILE", options.file) as lines,
        flags.open_client(options) as client,
        progress_bar("writing") as count,
    ):
        try:
            for _, outcome in client.write(changes(lines), batch=options.batch):
                last = sent.popleft()
                outcomes.add(last, outcome)
                add_invalid()
                count()
            add_invalid()
        except (LookalikeError, KeyboardInterrupt):
            print(f"{outcomes}; to go on: --after-line {last}", file=sys.stderr)
            raise
    print(json.dumps(asdict(outcomes), ensure_ascii=False) if options.json else outcomes)
    return 1 if outcomes.failed else 0


def parse_change(line: str, revision: int) -> Change:
    """The change of a line. `revision`: that of a line which states none. Raises InvalidRequest."""
    try:
        kind, fields = _kind_and_fields(parse_json(line))
    except ValueError as error:
        raise InvalidRequest("line", str(error)) from None
    try:
        stated = parse_field("revision", fields.pop("revision", None), [])
        return _change(kind, parse_field("id", fields.pop("id"), []), stated or revision, fields)
    except BadField as bad:
        raise InvalidRequest(bad.field, bad.detail) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(kind, str(error)) from None


def _kind_and_fields(row: object) -> tuple[str, dict[str, Any]]:
    if isinstance(row, dict) and len(row) == 1:
        ((kind, fields),) = row.items()
        if kind in ("upsert", "patch", "remove") and isinstance(fields, dict) and "id" in fields:
            return kind, fields
    raise ValueError('expected {"upsert": {"id": …}}, {"patch": {"id": …}} or {"remove": {"id": …}}')


def _change(kind: str, product_id: str, revision: int, fields: dict[str, Any]) -> Change:
    if kind == "remove":
        if fields:
            raise InvalidRequest("remove", f"has only an id and a revision, not {', '.join(fields)}")
        return remove_change(product_id, revision=revision)
    names = ("vectors", "encode", "keep_vectors", "allow_unfindable") if kind == "upsert" else ("vectors", "encode")
    arguments = {name: fields.pop(name) for name in names if name in fields}
    if "photo" in fields:
        arguments["image"] = Path(fields.pop("photo"))
    if "image" in fields:
        fields["image_path"] = fields.pop("image")
    if kind == "patch":
        return patch_change(product_id, revision=revision, **arguments, **fields)
    product = Product(id=product_id)
    set_fields(product, fields)
    return upsert_change(product, revision=revision, **arguments)
