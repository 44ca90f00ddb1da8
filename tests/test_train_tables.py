"""``python -m train.icvae --data people.csv``: its files, verbs and refusals, and that it works."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.data.refusals import refused
from train import ae, transformers
from train.ae import AESettings
from train.cli import command
from train.compare import CompareSettings
from train.compare import main as compare
from train.errors import Interrupted
from train.export import export
from train.figures import FiguresSettings
from train.figures import main as figures
from train.icvae import ICVAESettings, main
from train.table_transformer import TableTransformer
from train.trained import load
from train.transformers import ICVAETransformer

SMALL = {
    **{"steps": 6, "log_every": 2, "eval_every": 3, "checkpoint_every": 3, "batch_size": 32},
    **{"hidden": (16, 16), "z_dim": 3, "device": "cpu", "decay": "none"},
}
N = 400


def people(n: int = N, seed: int = 0) -> pd.DataFrame:
    """People whose height says their sex, and whose degree says whether they earn much."""
    random = np.random.default_rng(seed)
    sex, degree = random.integers(0, 2, (2, n))
    height = 165 + 15 * sex + 5 * random.standard_normal(n)
    missing = random.random(n) < 0.1
    return pd.DataFrame(
        {
            "sex": np.where(sex == 1, "m", "f"),
            "height": np.where(missing, np.nan, height),
            "degree": np.where(degree == 1, "yes", "no"),
            "age": random.integers(20, 60, n),
            "city": random.choice(["Bern", "Basel", "Genf"], n),
            "rich": np.where(random.random(n) < 0.1 + 0.8 * degree, "yes", "no"),
        }
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "people.csv"
    people().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> Path:
    """A short run with a condition and a target that has a likelihood."""
    folder = file.parent / "run"
    settings = {"condition": "sex", "target": "rich", "target_weight": 2.0, **SMALL}
    main(ICVAESettings(data=str(file), run_dir=folder, **settings))
    return folder


def test_a_run_leaves_its_measures(run):
    results = json.loads((run / "results.json").read_text())
    assert {
        *("reconstruction_error", "reconstruction_error_usual_row", "elbo", "columns"),
        *("leakage.sex", "leakage_auc.sex", "leakage_parameters.sex", "chance.sex"),
        *("read.rich", "read_chance.rich", "read_balanced.rich", "read_auc.rich"),
        *("demographic_parity.sex", "equalised_odds.sex"),
    } <= set(results)
    assert set(results["columns"]) == {"height", "degree", "age", "city"}
    assert set(results["figures"]) == {"columns", "swaps", "codes", "curves"}
    assert not results["reasons"]
    config = json.loads((run / "config.json").read_text())
    assert config["method"] == "icvae"


@pytest.mark.drawn
def test_figures_show_columns_and_rows(file, tmp_path):
    settings = ICVAESettings(data=str(file), run_dir=tmp_path / "run", condition="sex", **SMALL)
    results = main(settings)
    assert all(results["figures"].values())
    assert not results["reasons"]


def test_a_resumed_run_is_the_one_that_did_not_stop(run, file, tmp_path):
    settings = {"condition": "sex", "target": "rich", "target_weight": 2.0, **SMALL}
    folder = tmp_path / "run"
    main(ICVAESettings(data=str(file), run_dir=folder, **settings | {"steps": 3}))
    main(ICVAESettings(data=str(file), run_dir=folder, resume=True, **settings))
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_verbs_take_and_return_data_frames(run):
    table, rows = load(run), people(5, seed=1)
    z = table.encode(rows)
    assert z.shape == (5, 3)
    torch.testing.assert_close(z, table.encode(rows.drop(columns=["sex", "rich"])))
    decoded = table.decode(z, {"sex": "f"})
    assert list(decoded) == ["height", "degree", "age", "city"]
    pd.testing.assert_frame_equal(table.transfer(rows, {"sex": "f"}), decoded)
    own = table.reconstruct(rows)
    pd.testing.assert_frame_equal(own, table.decode(z, {"sex": rows["sex"]}))
    assert set(table.predict(rows)) <= {"yes", "no"}
    assert len(table.sample(4, {"sex": ["f", "m", "f", "m"]})) == 4
    one = table.encode(rows, sample=True, seed=3)
    torch.testing.assert_close(one, table.encode(rows, sample=True, seed=3))
    assert not torch.equal(one, z)
    restored = pickle.loads(pickle.dumps(table))
    torch.testing.assert_close(restored.encode(rows), z)


def test_missing_cells_are_filled_in_and_others_stay(run):
    rows = people(30, seed=2)
    filled = load(run).impute(rows)
    gaps = rows["height"].isna()
    assert gaps.any()
    assert not filled["height"].isna().any()
    assert filled["height"][~gaps].tolist() == rows["height"][~gaps].tolist()
    assert filled["city"].tolist() == rows["city"].tolist()
    assert rows["height"].isna().equals(gaps)


def test_exports_are_their_originals(run, tmp_path):
    table = load(run)
    assert {path.name for path in export(table, tmp_path)} >= {"encoder.pt2", "decoder.pt2"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--condition: name the column",)),
        (("--condition", "gender"), ("--condition gender", "its columns are sex, height")),
        (("--condition", "sex", "--target", "sex"), ("--target sex",)),
        (("--condition", "sex", "--likelihood", "bernoulli"), ("--likelihood", "of images")),
        (("--condition", "sex", "--labels", "a.csv"), ("--labels", "of images")),
        (("--condition", "sex", "--target-weight", "1"), ("--target-weight", "--target COLUMN")),
        (("--condition", "age"), ("--invariance direct needs classes", "age")),
    ],
)
def test_settings_that_do_not_go_together_are_refused(file, flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        command(ICVAESettings, main, ["--data", str(file), *flags])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in line for word in words), line


def test_other_methods_do_not_take_tables(file):
    with refused("is a table", "train.icvae", "--labels"):
        ae.main(AESettings(data=str(file)))


def test_images_have_no_target():
    with refused("--target", "of tables"):
        main(ICVAESettings(target="rich", condition="labels"))


def test_labels_of_verbs_are_checked(run):
    table, rows = load(run), people(3)
    with refused("'x'"):
        table.transfer(rows, {"sex": "x"})
    with refused("no column height"):
        table.encode(rows.drop(columns="height"))
    with refused("between which there is nothing"):
        table.interpolate(rows, rows)
    with refused("labels are missing"):
        table.decode(table.encode(rows))


def test_several_conditions_quantities_and_no_condition(file, tmp_path):
    options = {**SMALL, "data": str(file), "steps": 3}
    results = main(
        ICVAESettings(
            condition=("sex", "age"), invariance="pairwise", run_dir=tmp_path / "a", **options
        )
    )
    assert {"leakage.sex", "leakage.age", "chance.age"} <= set(results)
    results = main(
        ICVAESettings(condition="none", invariance="none", run_dir=tmp_path / "b", **options)
    )
    assert not any(name.startswith("leakage") for name in results)
    assert load(tmp_path / "b").decode(torch.zeros(2, 3)).shape == (2, 6)


def test_finite_codes_have_a_bound(tmp_path):
    """The bound holds for the best that anybody can do, which is known: height says the sex."""
    settings = ICVAESettings(
        condition="sex", levels=3, run_dir=tmp_path / "run", **SMALL | {"z_dim": 2}
    )
    results = main(settings, data=people(2_000))
    bound = results["leakage_bound.sex"]
    low = results["leakage_interval.sex"][0]
    assert results["chance.sex"] <= bound <= 1
    assert bound >= low


@pytest.fixture(scope="module")
def trained() -> dict[str, TableTransformer]:
    """Codes of the same people, of a VAE and with the penalty, that predict a target."""
    options = {"steps": 300, "z_dim": 3, "hidden": (32, 32), "batch_size": 128}
    options |= {"learning_rate": 3e-3, "target_weight": 5.0, "device": "cpu"}
    frame = people(1_500)
    rows, target = frame.drop(columns="rich"), frame["rich"]
    known = {"none": rows.drop(columns="sex"), "sex": rows}
    return {
        name: TableTransformer(condition=name, sample=True, **options).fit(known[name], target)
        for name in known
    }


def read(codes: tuple[np.ndarray, np.ndarray], labels: tuple[Any, Any]) -> float:
    return LogisticRegression(max_iter=300).fit(codes[0], labels[0]).score(codes[1], labels[1])


def test_codes_keep_the_target_and_not_the_condition(trained):
    """1,000 rows: a standard error is at most .016. Codes of a VAE say the sex."""
    frames = people(1_500), people(1_000, seed=5)
    scores = {}
    for name, codes in trained.items():
        z = tuple(codes.transform(frame.drop(columns="rich")) for frame in frames)
        scores[name] = {
            column: read(z, tuple(frame[column] for frame in frames)) for column in ("sex", "rich")
        }
    assert scores["none"]["sex"] > 0.8
    assert scores["sex"]["sex"] < 0.56
    # Who knows the degree is right in 90%.
    assert scores["sex"]["rich"] > 0.85
    assert np.mean(trained["sex"].predict(frames[1]) == frames[1]["rich"]) > 0.85


def test_the_same_person_under_another_condition(trained):
    """Height is what the sex decides: 15 cm, and the rest stays."""
    rows = people(200, seed=6).drop(columns="rich")
    woman, man = (trained["sex"].transfer(rows, {"sex": sex}) for sex in "fm")
    assert 10 < (man["height"] - woman["height"]).mean() < 20
    assert (man["degree"] == woman["degree"]).mean() > 0.9


def test_a_transformer_works_with_others():
    frame = people(120)
    codes = TableTransformer(condition="sex", steps=2, z_dim=2, hidden=(8,), batch_size=32)
    columns = ["sex", "height", "degree", "city"]
    both = ColumnTransformer([("codes", clone(codes), columns), ("age", "passthrough", ["age"])])
    model = make_pipeline(both, LogisticRegression()).fit(frame, frame["rich"])
    assert model.predict(frame[:5]).shape == (5,)
    names = both.get_feature_names_out().tolist()
    assert names == ["codes__tabletransformer0", "codes__tabletransformer1", "age__age"]
    fitted = codes.fit(frame)
    decoded = fitted.inverse_transform(fitted.transform(frame), {"sex": "f"})
    assert list(decoded) == ["height", "degree", "age", "city", "rich"]
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(frame), fitted.transform(frame))


def test_a_transformer_leaves_no_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TableTransformer(steps=1, hidden=(8,), batch_size=20).fit(people(60))
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_no_failed_fit(monkeypatch):
    """Searches go on after an error, and must not after this one."""

    def pressed(*_: object, **__: object) -> None:
        raise Interrupted("stopped at step 1; go on with --resume --run-dir gone")

    monkeypatch.setattr(transformers, "fit", pressed)
    with pytest.raises(KeyboardInterrupt):
        TableTransformer(steps=1, hidden=(8,), batch_size=20).fit(people(60))


def test_a_table_is_not_taken_for_images():
    """The mutation: one range for all columns, by which those of small numbers are lost."""
    frame = people(60)
    for columns in (["age", "height"], ["city", "degree", "age", "height"]):
        with pytest.raises(ValueError, match="TableTransformer takes tables"):
            ICVAETransformer(steps=1).fit(frame[columns], frame["sex"])
    pixels = pd.DataFrame(np.random.default_rng(0).random((60, 16)))
    codes = ICVAETransformer(steps=1, hidden=(8,), batch_size=20, memory=5)
    assert codes.fit(pixels, frame["sex"]).transform(pixels).shape == (60, 2)


def test_transformers_refuse_what_they_cannot_take():
    frame = people(60)
    with pytest.raises(ValueError, match="give a data frame"):
        TableTransformer().fit(frame.to_numpy())
    with pytest.raises(ValueError, match="condition gender"):
        TableTransformer(condition="gender", steps=1).fit(frame)
    with pytest.raises(ValueError, match="y is missing"):
        TableTransformer(condition="sex", target_weight=1.0, steps=1).fit(frame)


def test_other_commands_take_a_run_of_a_table_or_refuse_it(run, tmp_path):
    assert set(figures(FiguresSettings(run=run))) == {"columns", "swaps", "codes", "curves"}
    with refused("not compared on images"):
        compare(CompareSettings(runs=(run,), run_dir=tmp_path / "compare"))
    with refused("has no images"):
        load(run, shape=(8, 8))
