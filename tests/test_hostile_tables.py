"""Files that are broken, or made to break whoever reads them: each is refused with a line, and quickly."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

import auditkit as ak
from auditkit._tables import read_table
from auditkit.cli import main
from auditkit.csv_export import write_csv
from auditkit.engines import scan
from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.parquet_pages import _read_struct
from auditkit.table_limits import check_declared_size

CRITERIA = [ak.ECP("sex", tolerance=0.1)]


def refused(path: Path, message: str, error: type[InputError] = InputError) -> None:
    """Both ways of reading refuse the file."""
    with pytest.raises(error, match=message):
        read_table(path)
    with pytest.raises(error, match=message):
        scan(path, CRITERIA, score="score")


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file of some kilobytes whose rows take 48 MB."""
    path = tmp_path_factory.mktemp("bombs") / "bomb.parquet"
    batch = pa.table({"sex": pa.array(["F", "M"] * 500_000), "score": pa.array(np.zeros(1_000_000))})
    with pq.ParquetWriter(path, batch.schema, compression="zstd") as writer:
        for _ in range(3):
            writer.write_table(batch, row_group_size=1_000_000)
    return path


def test_parquet_that_declares_more_than_the_limit(bomb: Path) -> None:
    assert bomb.stat().st_size < 100_000
    with pytest.raises(
        InputError, match=r"declares 0.0[0-9]+ GiB \(3,000,000 rows\); the limit is 0.01 GiB: .*data.max_gib"
    ):
        read_table(bomb, max_gib=0.01)
    with pytest.raises(InputError, match=r"the limit is 0.01 GiB"):
        scan(bomb, CRITERIA, score="score", max_gib=0.01)
    assert len(read_table(bomb, max_gib=0.05)) == 3_000_000


def test_parquet_of_billions_of_rows_in_a_few_bytes(tmp_path: Path) -> None:
    """The footer is rewritten to say that the one row group has 4 billion rows; nobody reads a page to find out."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"sex": ["F"] * 77_777, "score": [0.5] * 77_777}), path)
    content = path.read_bytes()
    zigzag = 77_777 << 1
    old = bytes([zigzag & 127 | 128, zigzag >> 7 & 127 | 128, zigzag >> 14])
    assert content.count(old) >= 2
    path.write_bytes(content.replace(old, b"\xfe\xff\x7f"))  # 1,048,575 rows in as many bytes
    with pytest.raises(InputError, match="1,048,575 rows"):
        check_declared_size(path, max_gib=0.001)


def varint(value: int) -> bytes:
    """An integer as Thrift's compact protocol writes it."""
    zigzag, found = value << 1, b""
    while zigzag > 127:
        found, zigzag = found + bytes([zigzag & 127 | 128]), zigzag >> 7
    return found + bytes([zigzag])


def rewrite_page(path: Path, *, dictionary: bool, old: int, new: int) -> None:
    """A page of the last column says another number; the footer stays as it is."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    place = column.dictionary_page_offset if dictionary else column.data_page_offset
    content = path.read_bytes()
    at = content.index(varint(old), place + 2)
    assert at < place + 24
    path.write_bytes(content[:at] + varint(new) + content[at + len(varint(old)) :])


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize(
    ("dictionary", "values", "message"),
    [
        (False, False, "declares 2,147,483,647 bytes and 3,000 values, where the footer says"),
        (False, True, "2,147,483,647 values, where the footer says .* 3,000 values for the whole column"),
        (True, False, "declares 2,147,483,647 bytes and 700 values"),
        (True, True, "declares [0-9,]+ bytes and 2,147,483,647 values"),
    ],
)
def test_pages_that_declare_more_than_their_column(
    tmp_path: Path, dictionary: bool, values: bool, message: str, scanned: bool
) -> None:
    """A file of 20 KB, a page header of which asks for gigabytes; the footer says nothing of it."""
    path = tmp_path / "t.parquet"
    words = [f"group {i % 700}" for i in range(3_000)]
    pq.write_table(pa.table({"sex": words}), path, use_dictionary=dictionary, compression="none")
    check_declared_size(path, scanned=scanned)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    first = column.dictionary_page_offset if dictionary else column.data_page_offset
    header, _ = _read_struct(path.read_bytes(), first, 8)  # type: ignore[arg-type]
    counts = header[7 if dictionary else 5][1]
    assert counts == (700 if dictionary else 3_000)
    rewrite_page(path, dictionary=dictionary, old=counts if values else header[2], new=2**31 - 1)
    with pytest.raises(InputError, match=f"has a page of column 'sex' that .*{message}"):
        check_declared_size(path, scanned=scanned)
    if not dictionary:
        refused(path, "it is damaged, or made to fill the memory")


def test_headers_of_pages_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"sex": ["F", "M"] * 500}), path)
    content = bytearray(path.read_bytes())
    for damage in (b"\xff" * 20, b"\x1c" * 20, b"\x19" * 20, b"\x00" * 20):
        content[4:24] = damage  # an endless number, structs in structs, a list, an empty header
        path.write_bytes(content)
        refused(path, "the header of a page of column 'sex' is damaged")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_pages_of_sound_files_are_let_through(tmp_path: Path, version: str, compression: str) -> None:
    path, n = tmp_path / "t.parquet", 4_000
    table = pa.table(
        {
            "word": [f"{i % 9}" for i in range(n)], "number": np.arange(n) * 0.5, "none": pa.nulls(n),
            "list": [[1, 2], [], None, [3]] * (n // 4), "struct": [{"a": 1, "b": "x"}, None] * (n // 2),
        }
    )  # fmt: skip
    options = {"compression": compression, "data_page_version": version, "data_page_size": 500}
    for index in (False, True):
        pq.write_table(table, path, row_group_size=1_500, write_page_index=index, **options)
        check_declared_size(path)
    pq.write_table(table.slice(0, 0), path, **options)
    check_declared_size(path)


def test_the_audit_file_raises_the_limit(bomb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"""
data: {{path: {bomb}, attributes: sex, score: score, max_gib: GIB}}
criteria: [{{family: ECP, attributes: sex, tolerance: 0.1}}]
"""
    for gib, code in (("0.01", 2), ("1", 0)):
        (tmp_path / "audit.yaml").write_text(text.replace("GIB", gib))
        with pytest.raises(SystemExit) as stop:
            main(["audit", str(tmp_path / "audit.yaml"), "--out", str(tmp_path / "run")])
        assert stop.value.code == code
    assert "the limit is 0.01 GiB" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["arrow", "feather"])
def test_arrow_buffers_that_unpack_to_more_than_the_limit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"bomb.{kind}"
    table = pa.table({"sex": ["F", "M"] * 1_000_000, "score": np.zeros(2_000_000)})
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table, max_chunksize=500_000)
    assert path.stat().st_size < 0.2 * 2_000_000 * 16
    check_declared_size(path, max_gib=0.1)
    with pytest.raises(InputError, match=r"declares 0.0[0-9]+ GiB \(2,000,000 rows\); the limit is 0.02 GiB"):
        read_table(path, max_gib=0.02)
    assert len(read_table(path)) == 2_000_000


@pytest.mark.parametrize("kind", ["plain", "zstd", "dictionary", "nulls"])
def test_the_declared_size_of_arrow_files_is_what_arrow_unpacks(tmp_path: Path, kind: str) -> None:
    path, n = tmp_path / "t.arrow", 100_000
    column = {
        "plain": pa.array(np.arange(n, dtype=float)),
        "zstd": pa.array(np.zeros(n)),
        "dictionary": pa.array(["a", "b"] * (n // 2)).dictionary_encode(),
        "nulls": pa.nulls(n),
    }[kind]
    options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "zstd" else None)
    with pa.ipc.new_file(path, pa.schema([("x", column.type)]), options=options) as writer:
        writer.write_table(pa.table({"x": column}))
    check_declared_size(path, max_gib=(n * 9 + 1000) / 2**30)
    with pytest.raises(InputError, match="100,00"):
        check_declared_size(path, max_gib=(n * 8 - 1000) / 2**30)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("keep", [0.03, 0.5, 0.99])
def test_files_that_are_cut_off(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    frame = pd.DataFrame({"sex": ["F", "M"] * 500, "score": np.linspace(0, 1, 1000)})
    frame.to_parquet(path) if suffix == "parquet" else frame.to_feather(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(path, "cannot be read as|no file|damaged")


@pytest.mark.parametrize("place", range(4, 400, 23))
def test_arrow_files_with_a_wrong_byte_are_read_or_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "t.arrow"
    pd.DataFrame({"sex": ["F", "M"] * 50, "score": np.linspace(0, 1, 100)}).to_feather(path)
    content = bytearray(path.read_bytes())
    content[-place] ^= 0xFF
    path.write_bytes(content)
    try:
        check_declared_size(path)
    except InputError as error:
        assert "damaged" in str(error) or "declares" in str(error)  # noqa: PT017


CSV_FILES = {
    "latin-1": ("sex,score\nFrau M\xfcller,0.5\nM,0.2\n".encode("latin-1"), "not UTF-8|invalid UTF8"),
    "utf-16": ("sex,score\nF,0.5\nM,0.2\n".encode("utf-16"), "holds a zero byte .* or UTF-16; save it again as UTF-8"),
    "short row": (b"sex,score\nF,0.5\nM\n", "Expected 2 columns, got 1"),
    "long row": (b"sex,score\nF,0.5,7\nM,0.1\n", "Expected 2 columns, got 3"),
    "zero byte": (b"sex,score\nF,0.5\nM\0M,0.1\n", r"holds a zero byte \(at byte 17\)"),
    "open quote": (b'sex,score\n"F,0.5\n' + b"M,0.1\n" * 400_000, "cannot be read as"),
    "gzip": (gzip.compress(b"sex,score\nF,0.5\n"), "is compressed; unpack it first, since it can unpack to any size"),
    "one line": (b"sex,score\n" + b"F" * 20_000_000 + b",0.5\nM,0.1\n", "cannot be read as"),
}


@pytest.mark.parametrize("kind", CSV_FILES)
def test_csv_that_is_no_csv(tmp_path: Path, kind: str) -> None:
    content, message = CSV_FILES[kind]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    refused(path, message)


def test_csv_with_a_column_twice(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sex,score,sex\nF,0.5,M\n")
    refused(tmp_path / "t.csv", "several columns called 'sex'; rename them", SchemaError)


def test_a_line_without_end_takes_no_memory(tmp_path: Path) -> None:
    """Rows are looked for in blocks of a MiB: a line that is longer ends the reading, whatever its length."""
    path = tmp_path / "t.csv"
    with path.open("wb") as stream:
        stream.write(b"sex,score\n")
        for _ in range(128):
            stream.write(b"F" * (1 << 20))
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    refused(path, "cannot be read as")
    assert pool.bytes_allocated() - before < 1 << 20


@pytest.mark.parametrize("suffix", ["gz", "zip", "xz"])
def test_compressed_tables_are_not_unpacked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.csv.{suffix}"
    path.write_bytes(gzip.compress(b"0" * 1_000_000))
    refused(path, f"suffix '.{suffix}'; supported are .csv, .* unpack it first")


def test_arrays_are_tables_and_python_objects_are_refused(tmp_path: Path) -> None:
    sex, score = np.array(["F", "M", "F"]), np.array([0.1, 0.2, 0.3])
    np.savez(tmp_path / "t.npz", sex=sex, score=score)
    np.save(tmp_path / "t.npy", np.array(list(zip(sex, score, strict=True)), dtype=[("sex", "U1"), ("score", "f8")]))
    for name in ("t.npz", "t.npy"):
        assert read_table(tmp_path / name).to_dict("list") == {"sex": ["F", "M", "F"], "score": [0.1, 0.2, 0.3]}
        assert scan(tmp_path / name, CRITERIA, score="score").count.sum() == 3
    np.savez(tmp_path / "o.npz", sex=sex.astype(object), score=score)
    np.save(tmp_path / "o.npy", sex.astype(object))
    for name in ("o.npz", "o.npy"):
        refused(tmp_path / name, r"holds Python objects.*array.astype\(str\)", UntrustedFileError)


def test_arrays_that_are_no_table(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros((3, 2)))
    refused(tmp_path / "t.npy", "without column names; save a structured array", SchemaError)
    np.savez(tmp_path / "t.npz", a=np.zeros(3), b=np.zeros(4))
    refused(tmp_path / "t.npz", r"one vector per column, all of one length; got a \(3,\), b \(4,\)", SchemaError)
    (tmp_path / "z.npz").write_bytes(b"PK\x03\x04 no zip")
    refused(tmp_path / "z.npz", "is no .npz file")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [20, 300, 4_000, 7_000])
def test_arrays_with_a_wrong_byte(tmp_path: Path, place: int, packed: bool) -> None:
    save = np.savez_compressed if packed else np.savez
    save(tmp_path / "t.npz", sex=np.tile([0.0, 1.0], 500), score=np.random.default_rng(0).random(1000))
    content = bytearray((tmp_path / "t.npz").read_bytes())
    content[-place] ^= 0xFF
    (tmp_path / "t.npz").write_bytes(content)
    refused(tmp_path / "t.npz", "cannot be read as .npz|is no .npz file")


def test_arrays_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": [("score", "<f8")], "fortran_order": False, "shape": (2**20,)}
    )
    (tmp_path / "t.npy").write_bytes(header.getvalue())
    refused(tmp_path / "t.npy", "cut off")
    with pytest.raises(InputError, match="limit is 0.001 GiB"):
        read_table(tmp_path / "t.npy", max_gib=0.001)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.npy", b"\0" * 50_000_000)
    with pytest.raises(InputError, match="the limit is 0.01 GiB"):
        read_table(tmp_path / "bomb.npz", max_gib=0.01)


def test_cells_that_a_spreadsheet_would_run_become_text() -> None:
    frame = pd.DataFrame(
        {
            "=group": ["=1+1", "+cmd", "-2+3|calc", "@SUM(A1)", "\tx", "\rx", "  =1", "plain", None],
            "gap": [-0.5, 1.5, -1e-9, 0.0, 2.0, -3.0, 4.0, np.nan, np.inf],
            "text": ["-0.5", "+1", "ok", "", "a=b", "1-2", "x", "y", "z"],
            "kind": pd.Categorical(["=a", "b", "b", "b", "b", "b", "b", "b", "b"]),
        }
    )
    found = pd.read_csv(io.StringIO(write_csv(frame)), keep_default_na=False, lineterminator="\n")
    assert found.columns[0] == "'=group"
    assert found["'=group"].tolist() == ["'" + str(v) for v in frame["=group"][:7]] + ["plain", ""]
    assert [float(x) for x in found["gap"][:7]] == frame["gap"].tolist()[:7]
    assert found["text"].tolist() == frame["text"].tolist()
    assert found["kind"].tolist()[:2] == ["'=a", "b"]
    assert frame["=group"].tolist()[0] == "=1+1"
