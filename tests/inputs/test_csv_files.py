"""Tables as spreadsheets, R and pandas write them: read right, or refused with what to do."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmguard.errors import InputError
from mmguard.inputs.array_files import read_array
from mmguard.inputs.csv_files import Table, read_csv

PLAIN = "age,income\n31,1.5e3\n64,-2\n"
ROWS = [[31, 1500], [64, -2]]


def table(tmp_path: Path, text: str, encoding: str = "utf-8") -> Table:
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    return read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN.replace("\n", "\r\n"), "utf-8"),
        (PLAIN.replace("\n", "\r"), "utf-8"),
        (PLAIN.rstrip(), "utf-8"),
        (PLAIN.replace("\n", "\n\n"), "utf-8"),
        ('"age","income"\n"31","1.5e3"\n"64","-2"\n', "utf-8"),
        ("age , income\n 31, 1.5e3 \n 64, -2\n", "utf-8"),
    ],
)
def test_a_table_is_read_however_it_is_written(tmp_path: Path, text: str, encoding: str) -> None:
    read = table(tmp_path, text, encoding)
    assert (read.columns, read.x.tolist(), read.labels, read.faults) == (("age", "income"), ROWS, None, {})


@pytest.mark.parametrize(
    "text", ["age,income,Label\n31,1.5e3, cat\n64,-2,dog \n", " LABEL,age,income\ncat,31,1500\ndog,64,-2"]
)
def test_a_column_of_labels_may_stand_anywhere(tmp_path: Path, text: str) -> None:
    read = table(tmp_path, text)
    assert (read.columns, read.x.tolist(), read.labels) == (("age", "income"), ROWS, ("cat", "dog"))


def test_a_name_that_only_begins_with_label_is_a_feature(tmp_path: Path) -> None:
    read = table(tmp_path, "age,label of origin\n31,2.5\n")
    assert (read.columns, read.x.tolist(), read.labels) == (("age", "label of origin"), [[31, 2.5]], None)


def test_a_table_may_have_no_rows(tmp_path: Path) -> None:
    assert table(tmp_path, "age,income\n").x.shape == (0, 2)


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (["1", "0"], [1, 0]),
        (["1.0", "0.0"], [1, 0]),
        (["01", "00"], [1, 0]),
        (["cat", "7"], ["cat", "7"]),
        (["True", "False"], ["True", "False"]),
    ],
)
def test_labels_are_whole_numbers_or_words(tmp_path: Path, labels: list[str], read: list[object]) -> None:
    table(tmp_path, f"a,label\n1,{labels[0]}\n2,{labels[1]}\n")
    y = read_array(tmp_path / "a.csv").y
    assert y is not None
    assert y.tolist() == read


@pytest.mark.parametrize("label", ["0.5", "nan", "inf"])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, label: str) -> None:
    table(tmp_path, f"a,label\n1,{label}\n")
    with pytest.raises(InputError, match="1 integer labels or class names"):
        read_array(tmp_path / "a.csv")


REFUSED = {
    "semicolons": ("a;b\n1;2\n", "utf-8", "separated by semicolons; separate them with commas"),
    "decimal commas": ("a;b\n1,5;2,5\n", "utf-8", "separated by semicolons"),
    "sep= of Excel": ("sep=;\na;b\n1;2\n", "utf-8", "separated by semicolons"),
    "tabs": ("a\tb\n1\t2\n", "utf-8", "separated by tabs"),
    "UTF-16": (PLAIN, "utf-16", "encoded in UTF-16; save it in UTF-8"),
    "Latin-1": ("größe,b\n1,2\n", "latin-1", r"not encoded in UTF-8 .*; save it in UTF-8"),
    "no text": ("".join(map(chr, range(256))), "latin-1", "not encoded in UTF-8"),
    "comment": ("# by a tool\na,b\n1,2\n", "utf-8", "the first row is a comment"),
    "comment of NumPy": ("# a,b\n1,2\n", "utf-8", "the first row is a comment"),
    "no names": (
        "1,2\n3,4\n",
        "utf-8",
        "expected column names in the first row, got numbers: 1, 2; insert a row of column names",
    ),
    "names of pandas": ("0,1\n3,4\n", "utf-8", "got numbers: 0, 1"),
    "a name that is a number": ("a,inf\n3,4\n", "utf-8", "got numbers: inf"),
    "index of pandas": (",a,b\n0,1,2\n", "utf-8", r"column 1 of 3 has no name; .*index=False"),
    "comma at the end": ("a,b,\n1,2,\n", "utf-8", "column 3 of 3 has no name; .*comma at the end"),
    "twice": ("a,b, a\n1,2,3\n", "utf-8", "contains these column names more than once: a; give"),
    "labels twice": ("a,label,Label\n1,2,3\n", "utf-8", "contains these column names more than once: label; give"),
    "empty": ("", "utf-8", "the table is empty"),
    "blank": ("\n\n", "utf-8", "the table is empty"),
    "an endless cell": ('"' + 200_000 * "a", "utf-8", "not a readable .csv"),
}


@pytest.mark.parametrize(("text", "encoding", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_table_that_cannot_be_meant_says_what_to_do(tmp_path: Path, text: str, encoding: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.csv: .*{message}"):
        table(tmp_path, text, encoding)


@pytest.mark.parametrize(
    "cell",
    ["", "NA", "x", '"1,5"', '"1,000.5"', "5%", "\u22120.5", "1_000", "0x1p-3", "1D3", "2024-01-01", "\0", "=1+1"],
)
def test_a_cell_that_is_no_number_is_a_fault_of_its_row(tmp_path: Path, cell: str) -> None:
    read = table(tmp_path, f"a,b,label\n1,2,cat\n\n3,{cell},dog\n5,6,dog\n")
    assert read.faults.keys() == {1}
    assert read.faults[1].startswith("on line 4: column 'b': ")
    assert "expected a number such as -0.5 or 1e-3, got" in read.faults[1]
    assert read.x[[0, 2]].tolist() == [[1, 2], [5, 6]]
    assert read.labels == ("cat", "", "dog")
    assert np.isnan(read.x[1]).all()


@pytest.mark.parametrize("row", ["3", "3,4,5,6"])
def test_a_row_of_another_length_is_a_fault_of_its_own(tmp_path: Path, row: str) -> None:
    read = table(tmp_path, f"a,b,label\n1,2,0\n{row}\n5,6,1\n")
    n = row.count(",") + 1
    assert read.faults == {1: f"on line 3: expected 3 columns, as in the first row, got {n}"}
    y = read_array(tmp_path / "a.csv").y
    assert y is not None
    assert y[[0, 2]].tolist() == [0, 1]
    assert y.dtype == np.int64


def test_a_cell_that_is_not_finite_is_a_fault_too(tmp_path: Path) -> None:
    table(tmp_path, "a,b\n1,2\n3,nan\n-inf,1\n1e39,0\n")
    faults = read_array(tmp_path / "a.csv").faults
    assert faults == dict.fromkeys([1, 2, 3], "has values that are NaN or infinite in float32")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(InputError, match="not a readable"):
            read_csv(path)


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=5), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, rows=st.lists(st.lists(st.floats(), max_size=4), max_size=4))
def test_any_table_is_read_right_or_refused(tmp_path: Path, names: list[str], rows: list[list[float]]) -> None:
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    try:
        read = read_csv(tmp_path / "a.csv")
    except InputError:
        return
    whole = [row for row in rows if row]
    assert len(read.x) == len(whole)
    for i, row in enumerate(whole):
        if len(row) == len(names) and read.labels is None:
            np.testing.assert_array_equal(read.x[i], row)
        else:
            assert i in read.faults or read.labels is not None
