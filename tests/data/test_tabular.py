"""Tables: what is read, what columns are found to hold, how they are encoded, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.refusals import refused
from train.data.fingerprint import fingerprint
from train.data.tabular import frames
from train.data.tabular.columns import Column, kind_of
from train.data.tabular.roles import Roles, orders
from train.data.tabular.rows import prepare, prepare_split
from train.data.tabular.schema import Schema

N = 60
SEX = Roles(condition=("sex",))


def people(**columns: Any) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.integers(20, 60, N),
            "sex": np.tile(["f", "m"], N // 2),
            "job": random.choice(["clerk", "cook", "judge"], N),
        }
        | columns
    )


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_become_numbers_text_and_missing_cells(tmp_path, delimiter):
    lines = [["age", "pay", "job", "zip"], ["3", "1.5", " cook ", "007"], ["?", "", "NA", "112"]]
    text = "\n".join(delimiter.join(line) for line in lines)
    frame = frames.read(written(tmp_path / "a.csv", text))
    assert frame["age"].tolist() == [3, pd.NA]
    assert frame["pay"].tolist() == pytest.approx([1.5, np.nan], nan_ok=True)
    assert frame["job"].tolist() == ["cook", None]
    assert frame["zip"].tolist() == ["007", "112"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n" + "1,2\n" * 30 + "x,2\n", ("column a", "'x' in line 32", "1 such cells")),
        ("a;b\n1,5;2\n2,5;3\n", ("column a", "decimal commas", "line 2")),
        ("1,2\n3,4\n", ("no header",)),
        ("a,a\n1,2\n", ("two columns", "'a'")),
        ("", ("--data", "is empty")),
        ("a,b\n1\n", ("line 2", "1 cells")),
    ],
)
def test_tables_with_slips_are_refused(tmp_path, text, words):
    with refused(*words):
        frames.read(written(tmp_path / "a.csv", text))


def test_another_encoding_is_refused_by_name(tmp_path):
    with refused("--data", "not UTF-8", "save it as CSV UTF-8"):
        frames.read(written(tmp_path / "a.csv", "name\nJosé\n", "latin-1"))
    frame = frames.read(written(tmp_path / "b.csv", "name\nJosé\n", "utf-8-sig"))
    assert frame["name"].tolist() == ["José"]


def test_parquet_keeps_the_kinds_of_columns(tmp_path):
    size = pd.Categorical(["s", "l", "m"], ["s", "m", "l"], ordered=True)
    frame = pd.DataFrame({"size": size, "pay": [1.5, None, 2.0], "old": [True, False, None]})
    frame.to_parquet(tmp_path / "a.parquet")
    read = frames.read(tmp_path / "a.parquet")
    assert [kind_of(read[name]) for name in read] == ["ordered", "category", "category"]
    assert read["size"].cat.categories.tolist() == ["s", "m", "l"]


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with refused("--data", "no such file"):
        frames.read(tmp_path / "none.csv")
    with refused("--data"):
        frames.read(written(tmp_path / "none.parquet", "no parquet"))
    with refused("--data", "no such file"):
        frames.read(tmp_path / "none.pq")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3], "number"),
        ([0.5, 1.5, 2.5, None], "number"),
        ([0, 1, 0], "category"),
        ([True, False], "category"),
        (["a", "b"], "category"),
        (pd.Categorical(["a", "b"]), "category"),
        (pd.Categorical(["s", "m"], ["s", "m"], ordered=True), "ordered"),
    ],
)
def test_kinds_are_found(values, kind):
    assert kind_of(pd.Series(values)) == kind


def test_dates_are_refused():
    with refused("column day", "--drop day"):
        prepare(people(day=pd.date_range("2020-01-01", periods=N, freq="h").repeat(1)), SEX)


def test_each_column_is_scaled_by_itself():
    """The mutation: one mean and deviation for all columns, or those of held-out rows."""
    pay = np.random.default_rng(1).exponential(1.0, N) ** 3 * 1e4
    split = prepare(
        people(pay=pay, split=["train"] * 40 + ["test"] * 20), Roles(("sex",), split="split")
    )
    age, _, logged = split.train.cells.T
    assert split.train.schema.columns[2].logarithm
    for column in (age, logged):
        assert column.mean() == pytest.approx(0, abs=1e-5)
        assert column.std(unbiased=False) == pytest.approx(1, abs=1e-5)
    assert abs(float(split.held_out.cells[:, 0].mean())) > 1e-3


def test_rows_survive_encoding():
    size = pd.Categorical(np.tile(["s", "l", "m"], N // 3), ["s", "m", "l"], ordered=True)
    frame = people(pay=np.geomspace(1, 1e6, N), size=size, old=np.tile([True, False], N // 2))
    frame.loc[3, "job"] = None
    split = prepare(frame, SEX)
    schema = split.train.schema
    cells = schema.encode(frame)
    assert cells[3, 1].isnan()
    assert int(cells.isnan().sum()) == 1
    decoded = schema.decode(cells.nan_to_num(0.0))
    rows = split.train.schema.names
    assert rows == ["age", "job", "pay", "size", "old"]
    np.testing.assert_allclose(decoded["pay"], frame["pay"].clip(*limits(schema, "pay")), rtol=1e-4)
    kept = frame["age"].clip(*limits(schema, "age"))
    assert decoded["age"].tolist() == kept.tolist()
    assert decoded["size"].tolist() == list(size)
    assert decoded["old"].tolist() == frame["old"].tolist()
    others = [i for i in range(N) if i != 3]
    assert decoded["job"][others].tolist() == frame["job"][others].tolist()
    assert schema.columns[3].values == ("s", "m", "l")


def limits(schema: Schema, name: str) -> tuple[float, float]:
    column = schema.columns[schema.names.index(name)]
    return column.low, column.high


def test_a_schema_survives_json():
    frame = people(size=np.tile(["s", "l", "m"], N // 3), won=np.tile([0, 1, 1], N // 3))
    roles = Roles(("sex",), "won", ordinal=orders(["size=s,m,l"]), models_target=True)
    schema = prepare(frame, roles).train.schema
    restored = Schema.from_state(json.loads(json.dumps(schema.state())))
    assert restored == schema
    torch.testing.assert_close(restored.encode(frame), schema.encode(frame), equal_nan=True)
    state = schema.state()
    for damage in (
        {"columns": []},
        {"columns": [state["columns"][0] | {"scale": 0}]},
        {"columns": [state["columns"][1] | {"values": ["a", "a"]}]},
        {"columns": [*state["columns"], state["columns"][0]]},
        {"target": None},
        {"models_target": 3},
    ):
        with pytest.raises(ValueError, match=r"column|schema"):
            Schema.from_state(state | damage)


def test_the_condition_the_target_and_what_is_dropped_are_not_in_x(capsys):
    frame = people(won=np.tile([0, 1], N // 2), proxy=np.tile(["f", "m"], N // 2))
    split = prepare(frame, Roles(("sex",), "won", ("proxy",)))
    assert split.train.schema.names == ["age", "job"]
    shown = capsys.readouterr().err
    for line in ("age: numbers from", "won (target): 2", "sex: not in x (the condition)", "proxy"):
        assert line in shown
    assert split.train.cells.shape == (48, 2)
    assert set(split.train.target) == {0.0, 1.0}


def test_columns_that_tell_nothing_are_left_out_and_named(capsys):
    frame = people(
        row=np.arange(N), name=[f"p{i}" for i in range(N)], one=np.ones(N), none=[None] * N
    )
    split = prepare(frame, SEX)
    assert split.train.schema.names == ["age", "job"]
    shown = capsys.readouterr().err
    for words in ("row: not in x (a number for each", "name: not in x (60 different", "constant"):
        assert words in shown
    assert "none: not in x (without any value" in shown
    kept = prepare(frame, Roles(("sex",), numerical=("row",))).train.schema
    assert "row" in kept.names


def test_a_fifth_is_held_out_by_condition_and_target():
    frame = people(won=["y"] * 10 + ["n"] * 50)
    split = prepare(frame, Roles(("sex",), "won"))
    assert (len(split.train), len(split.held_out)) == (48, 12)
    assert int(split.held_out.target.sum()) == 2
    assert (split.held_out.column("sex") == "f").sum() == 6
    again = prepare(frame, Roles(("sex",), "won"))
    assert fingerprint(*split) == fingerprint(*again)
    assert fingerprint(*split) != fingerprint(*prepare(frame.iloc[::-1], Roles(("sex",), "won")))


def test_validation_rows_are_training_rows():
    words = ["train"] * 40 + ["test"] * 20
    given = prepare(people(part=words), Roles(("sex",), split="part"))
    held = prepare(people(part=words), Roles(("sex",), split="part"), "validation")
    assert (len(given.train), len(given.held_out)) == (40, 20)
    assert (len(held.train), len(held.held_out)) == (32, 8)


def test_two_data_frames_are_a_split():
    frame = people()
    split = prepare_split(frame[:45], frame[45:], SEX)
    assert (len(split.train), len(split.held_out)) == (45, 15)
    with refused("only one of the data frames has job"):
        prepare_split(frame, frame.drop(columns="job"), SEX)


def test_categories_that_were_not_trained_on_are_missing_and_named(capsys):
    frame = people()
    frame.loc[50, "job"] = "pilot"
    split = prepare_split(frame[:45], frame[45:], SEX)
    assert split.held_out.cells[5, 1].isnan()
    assert "column job: 1 cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("roles", "columns", "words"),
    [
        (Roles(("gender",)), {}, ("--condition gender", "no such column", "age, sex, job")),
        (Roles(("sex",), "sex"), {}, ("--target sex", "--condition already")),
        (Roles(("sex",), drop=("sex",)), {}, ("--drop sex",)),
        (Roles(("sex",), numerical=("job",)), {}, ("--numerical job", "text")),
        (Roles(("sex",), ordinal={"job": ()}), {}, ("--ordinal job", "job=low,middle,high")),
        (
            Roles(("sex",), ordinal={"job": ("cook", "x")}),
            {},
            ("--ordinal job", "not in the order"),
        ),
        (Roles(("sex",), categorical=("age",), numerical=("age",)), {}, ("--categorical age",)),
        (Roles(("id",)), {"id": [f"p{i}" for i in range(N)]}, ("--condition id", "60 categories")),
        (Roles(("sex",)), {"sex": ["f", None] * (N // 2)}, ("--condition sex", "30 of its 60")),
        (Roles(("sex",), "won"), {"won": ["y"] * N}, ("--target won", "constant")),
        (Roles(("sex",), "won"), {"won": [None] * N}, ("--target won", "without any value")),
        (Roles(("sex", "age"), drop=("job",)), {}, ("no column is left",)),
        (
            Roles(("sex",)),
            {"pay": [np.inf] + [1.0, 2.0, 3.0] * 19 + [1.0, 2.0]},
            ("pay", "not finite"),
        ),
        (
            Roles(("sex",), categorical=("pay",)),
            {"pay": np.arange(N) * 1.0},
            ("pay",),
        ),
    ],
)
def test_columns_that_cannot_be_are_refused(roles, columns, words, monkeypatch):
    monkeypatch.setattr("train.data.tabular.columns.MOST_CATEGORIES", 30)
    with refused(*words):
        prepare(people(**columns), roles)


def test_few_rows_are_refused():
    with refused("10 rows", "20 are the fewest"):
        prepare(people()[:10], SEX)
    with refused("two columns of one name"):
        prepare(pd.concat([people(), people()], axis=1), SEX)


def test_orders_are_read():
    assert orders(["size=s, m,l", "stars"]) == {"size": ("s", "m", "l"), "stars": ()}
    with refused("--ordinal size=s,s"):
        orders(["size=s,s"])


def test_numbers_of_another_table_are_checked():
    column = Column.fit("age", pd.Series([1.0, 2.0]), "number")
    with refused("column age", "1 cells that are no numbers"):
        column.encode(pd.Series([1.0, "x"], dtype=object))
