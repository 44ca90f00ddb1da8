"""The command line: headings and words of ``--help``, files of settings, and what is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest

from tests.data.refusals import refused
from train.__main__ import COMMANDS
from train.__main__ import main as list_commands
from train.abc import ABCSettings
from train.acai import ACAISettings
from train.ae import AESettings
from train.air import AIRSettings
from train.cli import command
from train.export import ExportSettings
from train.icvae import ICVAESettings
from train.settings import Count, NonNegative, Settings
from train.settings.flags import field_helps, parse

METHODS = (AIRSettings, ICVAESettings, ABCSettings, ACAISettings, AESettings)


@dataclass(frozen=True)
class SparseSettings(Settings):
    """A method of a user."""

    GROUPS: ClassVar = {"evaluation": ("probes",), "sparsity": ("penalty",)}

    steps: Count = 7
    z_dim: Count = 64
    """Size of the
    code."""
    penalty: NonNegative = 1e-3
    """Weight of the L1 norm."""
    probes: Count = 3


def sections(text: str) -> dict[str, str]:
    """The headings of a ``--help``, and the text in their boxes."""
    # Where there is no terminal, tyro underlines headings and draws no boxes.
    _, *words = re.split(r"^ ([a-z ]+?) +\n -+ *$", text, flags=re.MULTILINE)
    return dict(zip(words[::2], (" ".join(box.split()) for box in words[1::2]), strict=True))


def help_of(settings: type, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    with pytest.raises(SystemExit) as stop:
        parse(settings, ["--help"])
    assert not stop.value.code
    return sections(capsys.readouterr().out)


COMMON = ["data options", "model options", "training options", "evaluation options"]
RUN = ["run folder options", "device options"]


@pytest.mark.parametrize("kind", METHODS)
def test_help_has_every_flag_once_under_a_heading(kind, capsys):
    boxes = help_of(kind, capsys)
    titles = [title for title in boxes if title in [*COMMON, *RUN]]
    assert titles == [*COMMON, *RUN]
    assert "--config FILE" in boxes.pop("options")
    helps = {name: " ".join(text.split()) for name, text in field_helps(kind).items()}
    for field in fields(kind):
        flag = f"--{field.name.replace('_', '-')}"
        texts = [f" {box}" for box in boxes.values()]
        texts = [text for text in texts if f" {flag} " in text or f" {flag}, --no-" in text]
        described = " ".join(helps[field.name].split())
        assert sum(f" {described} (" in text for text in texts) == 1, flag
    assert "Number of training steps. (1 or more; default: " in boxes["training options"]


def test_groups_of_a_user(capsys):
    boxes = help_of(SparseSettings, capsys)
    assert list(boxes) == ["options", *COMMON, *RUN, "sparsity options"]
    assert "--z-dim INT Size of the code. (1 or more; default: 64)" in boxes["model options"]
    assert (
        "--penalty FLOAT Weight of the L1 norm. (0 or more; default: 0.001)"
        in (boxes["sparsity options"])
    )
    assert "--probes INT (1 or more; default: 3)" in boxes["evaluation options"]
    assert "Number of training steps. (1 or more; default: 7)" in boxes["training options"]
    assert "--z-dim" not in boxes["training options"]


def test_a_command_without_groups_has_one_box(capsys):
    assert list(help_of(ExportSettings, capsys)) == ["positional arguments", "options"]


TOML = """
z-dim = 3
hidden = [64, 32]
learning_rate = 1
clip-norm = "None"
data-dir = "there"
deterministic = true
"""


def written(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_gives_settings_and_flags_override_them(tmp_path):
    path = str(written(tmp_path, TOML))
    values = {"hidden": (64, 32), "learning_rate": 1, "data_dir": Path("there")}
    expected = AESettings(z_dim=3, deterministic=True, **values)
    assert parse(AESettings, ["--config", path]) == expected
    flags = ["--z-dim", "5", f"--config={path}", "--no-deterministic", "--clip-norm", "2"]
    assert parse(AESettings, flags) == AESettings(z_dim=5, clip_norm=2.0, **values)


@pytest.mark.parametrize("kind", [*METHODS, SparseSettings])
def test_the_config_of_a_run_gives_all_settings_but_which_run(kind, tmp_path):
    settings = kind(steps=5, seed=3, clip_norm=0.5, run_dir=tmp_path, resume=True)
    config = {"method": "x", "settings": asdict(settings), "inputs": {"shape": [8, 8]}}
    path = str(written(tmp_path, json.dumps(config, default=str), "config.json"))
    assert parse(kind, ["--config", path]) == kind(steps=5, seed=3, clip_norm=0.5)
    other = parse(kind, ["--config", path, "--seed", "4", "--run-dir", "new"])
    assert other == kind(steps=5, seed=4, clip_norm=0.5, run_dir=Path("new"))


def test_a_file_may_give_what_a_flag_must(tmp_path):
    path = written(tmp_path, 'run = "there"\nonnx = true')
    assert parse(ExportSettings, ["--config", str(path)]) == ExportSettings(
        Path("there"), onnx=True
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zdim = 3", "'zdim' is no setting of AESettings: do you mean z_dim?"),
        ("[model]\nz_dim = 3", "'model' is no setting of AESettings"),
        ('steps = "5"', "steps is '5': give a whole number"),
        ("steps = 0", "steps is 0: give a number that is 1 or more"),
        ("steps = 2147483648", "steps is 2147483648: give less than 2,147,483,648"),
        ("learning-rate = nan", "learning-rate is nan: give a number that is above 0"),
        ("hidden = [64, [32]]", "hidden is (64, [32]): give a tuple, each a whole number"),
        ('network = "cnn"', "network is 'cnn': give 'auto' or 'conv' or 'dense'"),
        ("data = 2020-01-01", "data is datetime.date(2020, 1, 1): give a string"),
        ("z-dim = 3\nz_dim = 3", "z_dim is given twice"),
        ("z_dim = [", "is no TOML file"),
        ("z_dim = " + "[" * 100_000, "is no TOML file"),
        ("z_dim = '\udcff'", "is no TOML file"),
    ],
)
def test_files_that_are_refused(tmp_path, capsys, text, words):
    path = tmp_path / "my.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit) as stop:
        command(AESettings, lambda settings: {}, ["--config", str(path)])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith(f"error: {path}")
    assert words in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "has no settings"),
        ("{", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ('{"settings": {"noise": NaN}}', "not a finite number"),
        ('{"settings": {"z_dim": -1}}', "z_dim is -1"),
        ('{"settings": {"beta": 1}}', "'beta' is no setting of AESettings"),
    ],
)
def test_configs_of_runs_that_are_refused(tmp_path, text, words):
    path = written(tmp_path, text, "config.json")
    with refused(str(path), words):
        parse(AESettings, ["--config", str(path)])


def test_a_file_that_is_none(tmp_path):
    for path in (tmp_path, tmp_path / "missing.toml", Path("/dev/zero")):
        with refused(f"--config {path} is no file"):
            parse(AESettings, ["--config", str(path)])


def test_settings_that_contradict_each_other_name_the_file(tmp_path):
    path = written(tmp_path, "embed_dim = 1")
    with refused("--normalise leaves --embed-dim 1", f"(with the settings of {path})"):
        parse(ABCSettings, ["--config", str(path), "--normalise"])


def test_a_run_cannot_name_code_to_import(tmp_path):
    """Whoever wrote the run's folder may be somebody else; a TOML file is a person's own."""
    config = json.dumps({"settings": {"estimator": "a_trap:TrapELBO"}})
    path = str(written(tmp_path, config, "config.json"))
    with refused(path, "estimator is 'a_trap:TrapELBO'", "give --estimator too"):
        parse(AIRSettings, ["--config", path])
    given = parse(AIRSettings, ["--config", path, "--estimator", "mine:ELBO"])
    assert given.estimator == "mine:ELBO"
    toml = str(written(tmp_path, 'estimator = "mine:ELBO"'))
    assert parse(AIRSettings, ["--config", toml]).estimator == "mine:ELBO"


def test_the_list_of_commands(capsys):
    list_commands([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[2:]] == list(COMMANDS)
    assert max(map(len, lines)) <= 80
    with pytest.raises(SystemExit) as stop:
        list_commands(["training"])
    assert stop.value.code == 2


def test_the_version_is_the_same_everywhere(capsys):
    list_commands(["--version"])
    shown = capsys.readouterr().out.strip()
    root = Path(__file__).parents[1]
    for file, line in (
        ("pyproject.toml", f'version = "{shown}"'),
        ("README.md", f"version = {{{shown}}}"),
        ("CITATION.cff", f"version: {shown}"),
        ("CHANGELOG.md", f"## {shown}"),
    ):
        assert line in (root / file).read_text(), file


WITHOUT_TORCH = """
import contextlib, io, json, runpy, sys, traceback

HEAVY = ("torch", "torchvision", "pyro", "sklearn")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
results = {}
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        results[module] = output.getvalue() if not stop.code else f"status {stop.code}"
    except BaseException:
        results[module] = traceback.format_exc()
    else:
        results[module] = output.getvalue()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Runs ``--help`` of each command where torch and Pyro cannot be imported."""
    words = [sys.executable, "-c", WITHOUT_TORCH, "train", *COMMANDS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["train", *COMMANDS])
def test_help_needs_no_torch(helps, name):
    expected = "Commands" if name == "train" else f"usage: python -m {name} [-h]"
    assert helps[name].startswith(expected), helps[name]


def test_help_has_the_settings_of_the_method_and_of_every_method(helps):
    for flag in ("--estimator", "--presence-prior", "--digit-size", "--resume"):
        assert flag in helps["train.air"]


def test_errors_name_the_program_too(tmp_path):
    """A script of a user's own, with a wrong flag."""
    script = written(
        tmp_path,
        "from dataclasses import dataclass\n"
        "from train.cli import command\n"
        "from train.settings import Count, Settings\n\n"
        "@dataclass(frozen=True)\n"
        "class OwnSettings(Settings):\n"
        "    z_dim: Count = 64\n"
        "    'Size of the code.'\n\n"
        "if __name__ == '__main__':\n"
        "    command(OwnSettings, lambda settings: {})\n",
        "own.py",
    )
    root = str(Path(__file__).parents[1])
    for flags, words in (
        (["--z-dims", "3"], "Size of the code. (1 or more; default: 64)"),
        (["--z-dim", "x"], "python own.py --help"),
    ):
        done = subprocess.run(
            [sys.executable, str(script), *flags],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": root, "COLUMNS": "100"},
        )
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split()), done.stderr
