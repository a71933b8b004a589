"""`lookalike search --batch`: a file of searches to a file of results. Reads a file, prints JSON lines."""

from __future__ import annotations

import json
import sys
from itertools import islice

from google.protobuf.json_format import MessageToDict, Parse, ParseError

from lookalike.cli.json_lines import numbered_lines
from lookalike.client import Client
from lookalike.errors import InvalidRequest, LookalikeError
from lookalike.limits import MAX_BATCH
from lookalike.status import to_request_error
from lookalike.v1.search_pb2 import SearchRequest, SearchResponse


def run(file: str, client: Client) -> int:
    """Search each line's request; print {"response": …} or {"error": …} per line, in order, as batches are answered.

    Returns the exit status: 0 if every search was answered, 1 if one failed, 2 for a line that is no request (whole
    batches before it are answered) or a file that cannot be read. Raises what a batch fails with as a whole.
    """
    searched = failed = 0
    try:
        with numbered_lines("--batch", file) as lines, client:
            requests = (_parse(line, number) for number, line in lines)
            while batch := [*islice(requests, MAX_BATCH)]:
                searched += len(batch)
                for result in client.batch_search(batch):
                    failed += isinstance(result, LookalikeError)
                    print(json.dumps(_as_dict(result), ensure_ascii=False))
                sys.stdout.flush()
    except InvalidRequest as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if failed:
        print(f"{failed:,} of {searched:,} searches failed: their results say why", file=sys.stderr)
    return 1 if failed else 0


def _parse(line: str, number: int) -> SearchRequest:
    try:
        return Parse(line, SearchRequest())
    except ParseError as error:
        raise InvalidRequest(f"--batch line {number}", str(error)) from None


def _as_dict(result: SearchResponse | LookalikeError) -> dict[str, object]:
    name, message = ("error", to_request_error(result)) if isinstance(result, LookalikeError) else ("response", result)
    fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: fields}
