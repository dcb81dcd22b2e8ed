"""The README stays short, and what it tells a user to type runs as it stands, on a model and data of the user's."""

import pathlib
import re

import pages
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MOST_WORDS = 1000


def test_it_can_be_read_in_five_minutes():
    assert len(README.split()) <= MOST_WORDS
    sections = re.findall(r"^## (.*)$", README, re.MULTILINE)
    first = ["Results", "Install and try it", "Your model in Python", "Your model in one command", "What do I choose"]
    assert sections[: len(first)] == first


@pytest.mark.filterwarnings("ignore:Only .* training steps come before the deadline")
def test_python_examples_run(tmp_path, monkeypatch):
    """All blocks one after the other, with fewer epochs; every name in them that is not theirs is the user's."""
    assert len(pages.blocks(README)) == 3
    monkeypatch.chdir(tmp_path)
    names = pages.run(README, "README.md", pages.names_of_a_user(tmp_path))
    assert names["small"].count_params() < names["model"].count_params()
    assert names["record"].num_bytes == (tmp_path / "mine.tflite").stat().st_size
    assert names["result"].best_file.is_file() and (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert len(names["tfmot"].pruning.wrappers(names["pruned"])) == 3


def test_examples_are_as_short_as_promised():
    script, call, *_ = pages.blocks(README)
    assert len(script.splitlines()) == 12 and len(call.splitlines()) <= 6


def test_what_it_names_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) > 15 and all((ROOT / link).exists() for link in links), links
    assert all((ROOT / config).is_file() for config in re.findall(r"configs/\w+\.yaml", README))
