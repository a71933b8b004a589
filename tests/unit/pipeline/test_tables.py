"""Reading tables: encodings, delimiters, line ends, huge and broken rows, and every kind of file."""

from __future__ import annotations

import codecs
import gzip
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from lookalike.errors import BadCatalogue, BadSettings
from pipeline.tables import reader, text_file
from pipeline.tables.delimiter import check_delimiter
from pipeline.tables.encoding import check_encoding, guess_encoding
from pipeline.tables.reader import TableOptions
from pipeline.tables.record import MAX_ROW_CHARS, BrokenRecord

JAPANESE = "商品コード,商品名\r\nA1,赤いスニーカー①\r\nA2,白いワンピース\r\n"


def rows(path: Path, options: TableOptions = reader.DEFAULT_OPTIONS) -> list[dict[str, Any] | tuple[int, str]]:
    """The fields of each row; of a broken one its line and detail."""
    return [
        (record.line, record.detail) if isinstance(record, BrokenRecord) else dict(record.fields)
        for record in reader.open_table(path, options).records()
    ]


def write(path: Path, data: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode(encoding))
    return path


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_byte_order_mark_tells_the_encoding_of_csv_and_json_lines(tmp_path: Path, mark: bytes, name: str) -> None:
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(
        mark, "utf-32-le"
    )
    text = "id,title\n1,赤い靴\n" if name == "t.csv" else '{"id": "1", "title": "赤い靴"}\n'

    assert rows(write(tmp_path / name, mark + text.encode(encoding))) == [{"id": "1", "title": "赤い靴"}]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl"])
@pytest.mark.parametrize("encoding", ["cp932", "utf-16-le", "utf-16-be"])
def test_a_file_that_is_not_utf8_is_refused_with_the_encoding_to_give(tmp_path: Path, name: str, encoding: str) -> None:
    text = JAPANESE if "csv" in name else '{"商品コード": "A1", "商品名": "赤いスニーカー"}\n'
    data = text.encode(encoding)
    path = write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)

    with pytest.raises(BadCatalogue, match=f"--encoding {encoding}"):
        reader.open_table(path)

    (first, *_) = rows(path, TableOptions(encoding=encoding))
    assert isinstance(first, dict)
    assert first["商品コード"] == "A1"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (JAPANESE, "cp932"),
        ("id,title,category\r\nA1,テスト①,靴\r\nA2,abc,靴\r\n", "cp932"),
        ("id,title\n1,ｼｬﾂ", "cp932"),
        ("id,title\n1,海", "cp932"),
        (JAPANESE.replace("①", ""), "euc_jp"),
        ("id,title\n1,テスト", "euc_jp"),
        (JAPANESE, "utf-16-le"),
        (JAPANESE, "utf-16-be"),
        ("id;title\n1;Rote Schuhe für Mädchen\n", "cp1252"),
        ("id,title\n1,Crème brûlée", "cp1252"),
        ("id,title\n1,Men’s “best” – shoe", "cp1252"),
        ("id,상품명\n1,빨간 운동화\n2,흰 드레스", "cp949"),
        ("编号,名称\n1,红色运动鞋\n2,白色连衣裙", "gb18030"),
        ("id,название\n1,красные кроссовки", "cp1251"),
    ],
)
def test_the_encoding_of_a_short_table_is_guessed(text: str, encoding: str) -> None:
    assert guess_encoding(text.encode(encoding)) == encoding


def test_a_few_nul_bytes_are_not_taken_for_utf16(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", b"id,title,note\n1,a\0b,c\n2,b,\0\n")

    assert [row["id"] for row in rows(path) if isinstance(row, dict)] == ["1", "2"]


def test_japanese_e_mail_encoding_is_not_taken_for_ascii(tmp_path: Path) -> None:
    with pytest.raises(BadCatalogue, match="--encoding iso2022_jp"):
        reader.open_table(write(tmp_path / "t.csv", "id,title\n1,赤い靴\n", "iso2022_jp"))


def test_bytes_beyond_the_first_chunk_are_judged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "_CHUNK_BYTES", 1001)
    lines = [b"%d,plain" % number for number in range(1000)]
    data = b"id,title\n" + b"\n".join([*lines, "9,赤いスニーカー".encode("cp932")])

    with pytest.raises(BadCatalogue, match="--encoding cp932"):
        reader.open_table(write(tmp_path / "t.csv", data))


def test_a_letter_that_two_chunks_share_is_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "_CHUNK_BYTES", 2)

    assert rows(write(tmp_path / "t.csv", "id\n靴靴a靴\n")) == [{"id": "靴靴a靴"}]


def test_single_rows_that_are_not_utf8_leave_the_file_utf8(tmp_path: Path) -> None:
    data = "id,title\n1,赤い靴\n2,白い靴\n".encode() + b"3,\xe9t\xe9\n"

    (*_, last) = rows(write(tmp_path / "t.csv", data))

    assert isinstance(last, dict)
    assert "\udcff" in last["title"]


def test_a_given_encoding_is_used_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,title\n1,café\n", "cp1252")

    assert rows(path, TableOptions(encoding="cp1252")) == [{"id": "1", "title": "café"}]
    assert rows(path, TableOptions(encoding="utf-8"))[0] != {"id": "1", "title": "café"}


def test_a_byte_order_mark_is_no_part_of_the_first_column_whatever_encoding_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", codecs.BOM_UTF16_LE + '"id"\n1\n'.encode("utf-16-le"))

    assert rows(path, TableOptions(encoding="utf-16-le")) == [{"id": "1"}]


@pytest.mark.parametrize("name", ["utf-9", "rot13", "hex"])
def test_an_unknown_encoding_is_refused(name: str) -> None:
    with pytest.raises(BadSettings, match="--encoding"):
        check_encoding(name)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way_in_csv_and_json_lines(tmp_path: Path, end: str) -> None:
    csv = write(tmp_path / "t.csv", end.join(["id,title", "1,a", "", "2,b"]))
    lines = write(tmp_path / "t.jsonl", end.join(['{"id": 1}', "", '{"id": 2}']))

    assert rows(csv) == [{"id": "1", "title": "a"}, {"id": "2", "title": "b"}]
    assert rows(lines) == [{"id": 1}, {"id": 2}]


def test_line_ends_of_several_kinds_may_be_mixed(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "t.csv", "id\n1\r\n2\r3\n")) == [{"id": "1"}, {"id": "2"}, {"id": "3"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id,title\n1,{huge}\n2,b\n"),
        ("t.csv", 'id,title\n1,"{huge}\n2,b\n'),
        ("t.jsonl", '{{"id": "1", "title": "{huge}"}}\n{{"id": "2", "title": "b"}}\n'),
    ],
)
def test_a_huge_cell_breaks_its_row_only(tmp_path: Path, name: str, text: str) -> None:
    broken, kept = rows(write(tmp_path / name, text.format(huge="x" * (3 * MAX_ROW_CHARS))))

    assert isinstance(broken, tuple)
    assert kept == {"id": "2", "title": "b"}


def test_a_large_cell_within_the_bound_is_read(tmp_path: Path) -> None:
    (row,) = rows(write(tmp_path / "t.csv", "id,picture\n1," + "x" * 500_000 + "\n"))

    assert isinstance(row, dict)
    assert len(row["picture"]) == 500_000


def test_a_quote_that_is_not_closed_does_not_swallow_the_rows_after_it(tmp_path: Path) -> None:
    text = "id,title\n" + '1,"a 12 inch\n' + "".join(f"{n},t\n" for n in range(2, 50))

    broken, *kept = rows(write(tmp_path / "t.csv", text))

    assert broken == (2, "not CSV: unexpected end of data")
    assert [row["id"] for row in kept if isinstance(row, dict)] == [str(n) for n in range(2, 50)]


def test_rows_that_never_end_are_read_again_a_bounded_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_file, "_MAX_REREAD_CHARS", 100_000)
    # Each line opens a quote that all later ones keep open.
    broken = rows(write(tmp_path / "t.csv", "id,title,more\n" + 'x""","z\n' * 20_000))

    assert 1 <= len(broken) < 20_000


def test_a_control_character_in_a_cell_is_the_concern_of_its_field_in_csv_and_json_lines(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "t.csv", "id,note\n1,a\0b\n")) == [{"id": "1", "note": "a\0b"}]
    assert rows(write(tmp_path / "t.jsonl", '{"id": "1", "note": "a\0b\tc"}\n')) == [{"id": "1", "note": "a\0b\tc"}]


def test_empty_cells_beyond_the_last_column_are_allowed(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "t.csv", "id,title\n1,a,,\n2,b,c\n3\n,,\n")) == [
        {"id": "1", "title": "a"},
        (3, "3 columns, expected 2"),
        (4, "1 columns, expected 2"),
    ]


@pytest.mark.parametrize(("delimiter", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_a_header_with_one_delimiter_tells_it(tmp_path: Path, delimiter: str, word: str) -> None:
    table = reader.open_table(write(tmp_path / "t.csv", delimiter.join("abc") + "\n" + delimiter.join("1,2")))

    assert table.columns == ["a", "b", "c"]
    assert table.notices == (f"t.csv: the columns are separated by {word}",)


def test_wanted_columns_decide_between_delimiters(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id;title, long;category\n1;a;b\n")

    assert reader.open_table(path).columns == ["id;title", "long;category"]
    assert reader.open_table(path, wanted=["id", "category"]).columns == ["id", "title, long", "category"]


@pytest.mark.parametrize("line", ["sep=;", "\ufeffsep=;", '"sep=;"', "SEP=;"])
def test_the_line_that_excel_puts_before_the_header_tells_the_delimiter(tmp_path: Path, line: str) -> None:
    table = reader.open_table(write(tmp_path / "t.csv", f"{line}\r\nid;title, long\r\n1;a\r\n"))

    assert table.columns == ["id", "title, long"]
    assert [record.line for record in table.records()] == [3]


def test_a_given_delimiter_is_used_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id^title\n1^a\n")

    assert rows(path, TableOptions(delimiter="^")) == [{"id": "1", "title": "a"}]
    assert check_delimiter("tab") == "\t"
    with pytest.raises(BadSettings, match="--delimiter"):
        check_delimiter("ab")


def test_a_table_without_a_header_is_divided_as_its_column_names_say(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "1;a, b;c\n")

    assert rows(path, TableOptions(columns=("id", "title", "kind"))) == [{"id": "1", "title": "a, b", "kind": "c"}]


def test_missing_columns_are_an_error_with_a_hint_at_the_delimiter(tmp_path: Path) -> None:
    table = reader.open_table(write(tmp_path / "t.csv", "id^title\n"), TableOptions(delimiter=";"))
    with pytest.raises(BadCatalogue, match="no column id"):
        reader.require_columns(table, ["id"], BadCatalogue)

    semicolons = reader.open_table(write(tmp_path / "t.csv", "id;title\n"), TableOptions(delimiter=","))
    with pytest.raises(BadCatalogue, match="--delimiter ';'"):
        reader.require_columns(semicolons, ["id"], BadCatalogue)


def test_column_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = "カテゴリ", "カテコ\u3099リ"

    assert reader.open_table(write(tmp_path / "t.csv", decomposed + ",id\n")).columns == [composed, "id"]
    assert rows(write(tmp_path / "t.jsonl", f'{{"{decomposed}": 1}}\n')) == [{composed: 1}]


@pytest.mark.parametrize("name", ["T.CSV", "t.Csv.GZ", "t.TSV", "t.NDJSON", "t.Jsonl.gz", "t.txt"])
def test_suffixes_are_known_in_any_case(tmp_path: Path, name: str) -> None:
    text = '{"id": "1"}\n' if "json" in name.lower() else "id\n1\n"
    data = gzip.compress(text.encode()) if name.lower().endswith("gz") else text.encode()

    assert rows(write(tmp_path / name, data)) == [{"id": "1"}]


@pytest.mark.parametrize("name", ["t.xls", "t.parquet.gz", "t", "t.json"])
def test_another_kind_of_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadCatalogue, match=r"not a \.csv"):
        reader.open_table(write(tmp_path / name, b""))


def excel_file(path: Path, *sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for number, cells in enumerate(sheets, 1):
        sheet = book.create_sheet(f"S{number}")
        for row in cells:
            sheet.append(row)
    book.save(path)
    return path


def test_an_excel_sheet_is_a_table(tmp_path: Path) -> None:
    time = datetime(2026, 11, 25, 9, 30)
    cells: list[list[Any]] = [[None], ["id", "title", None, "when"], [1001.0, "赤い靴", "x", time], [], ["b", 12.5]]

    table = reader.open_table(excel_file(tmp_path / "t.XLSX", cells))

    assert [record for record in table.records() if not isinstance(record, BrokenRecord)] == [
        (3, {"id": 1001, "title": "赤い靴", "when": time}),
        (5, {"id": "b", "title": 12.5, "when": ""}),
    ]
    assert table.notices == ()


def test_a_sheet_is_chosen_by_its_name_and_the_others_are_told(tmp_path: Path) -> None:
    path = excel_file(tmp_path / "t.xlsx", [["id"], ["1"]], [["id"], ["2"]])

    assert rows(path) == [{"id": "1"}]
    assert rows(path, TableOptions(sheet="S2")) == [{"id": "2"}]
    assert "S2" in reader.open_table(path).notices[0]
    with pytest.raises(BadSettings, match="S1, S2"):
        reader.open_table(path, TableOptions(sheet="S3"))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip"])
def test_a_damaged_excel_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadCatalogue, match=r"t\.xlsx"):
        reader.open_table(write(tmp_path / "t.xlsx", data))


def test_an_excel_file_that_is_huge_when_unpacked_is_refused(tmp_path: Path) -> None:
    path = excel_file(tmp_path / "t.xlsx", [["id"]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as parts, parts.open("xl/sharedStrings.xml", "w") as part:
        for _ in range(257):
            part.write(bytes(1 << 20))

    with pytest.raises(BadCatalogue, match="too large"):
        reader.open_table(path)
