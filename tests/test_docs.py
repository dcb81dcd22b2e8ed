"""Pages: their code runs, their commands exist with their flags, and the site builds without a warning."""

import importlib.util
import logging
import pathlib
import re
import runpy
import shlex

import pages
import pytest
from absl import flags

from tf_reweight.cli.commands import COMMANDS
from tf_reweight.workflow import keys

ROOT = pathlib.Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
WITH_CODE = [path for path in DOCS if pages.blocks(path.read_text())]


# The fits are too short for a deadline, and a page freezes a layer.
@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline", "ignore:The channels of .* left whole")
@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.stem)
def test_code_of_a_page_runs(path, tmp_path, monkeypatch, eager_steps):
    monkeypatch.chdir(tmp_path)
    pages.run(path.read_text(), path.name, pages.names_of_a_user(tmp_path))


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "AGENTS.md", *DOCS], ids=lambda path: path.stem)
def test_commands_of_a_page_exist_with_their_flags(path):
    text = path.read_text()
    lines = re.findall(r"^.*\btf-reweight .*$", "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)), re.MULTILINE)
    for line in lines:
        words = shlex.split(line.split("tf-reweight ", 1)[1])
        values = flags.FlagValues()
        COMMANDS[words[0]][0](values)
        values(words)
    named = set(re.findall(r"tf-reweight ([a-z]+)", text))
    assert named <= set(COMMANDS), named - set(COMMANDS)


def test_every_configuration_is_named():
    shown = "".join(path.read_text() for path in DOCS)
    assert [path.name for path in (ROOT / "configs").glob("*.yaml") if f"configs/{path.name}" not in shown] == []


def test_keys_are_those_of_the_schema():
    found = {key.path: key for group in keys.groups() for key in group.keys}
    assert found["train.epochs"].kind == "whole number >= 0" and found["train.epochs"].default == "10"
    assert found["export.best_by"].kind.startswith("size | ") and found["regularize.method.growth"].default == "1.0"
    assert {"regularize.rules.structure", "export.precisions", "seed"} <= set(found)
    listed = keys.listing()
    assert max(map(len, listed.splitlines())) <= 80 and all(f"  {path.split('.')[-1]} " in listed for path in found)


def test_the_reference_has_every_name():
    import tf_reweight as tfr

    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    assert all(f"tf_reweight.{name}" in made["reference/python.md"] for name in set(tfr.__all__) - {"__version__"})
    assert all(f"## {command}\n" in made["reference/commands.md"] for command in COMMANDS)
    assert "| `train.epochs` | whole number >= 0 | `10` |" in made["reference/configuration.md"]
    assert "](docs/" not in made["index.md"] and "tf_reweight" in made["index.md"]


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_site_builds_without_a_warning(tmp_path, caplog):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with caplog.at_level(logging.WARNING, "mkdocs"):
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    assert not caplog.records
    assert (tmp_path / "reference" / "python" / "index.html").is_file()
