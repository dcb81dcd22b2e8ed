"""What README and pages say was measured is what the files of results say, and every result is shown."""

import json
import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
RESULTS = GENERATE["results"]()


@pytest.mark.parametrize("page", GENERATE["PAGES"])
def test_pages_say_what_the_results_say(page):
    text = (ROOT / page).read_text()
    assert GENERATE["named"](text)
    assert GENERATE["generated"](text, RESULTS) == text, "run python docs/generate.py"


def test_a_changed_figure_or_page_is_noticed():
    name, text = "pitch", (ROOT / "docs" / "benchmarks.md").read_text()
    changed = json.loads(json.dumps(RESULTS))
    changed[name]["figures"][0]["speed_int8"] = "9x"
    assert GENERATE["generated"](text, changed) != text
    assert GENERATE["generated"](text.replace(RESULTS[name]["figures"][0]["speed_int8"], "9x"), RESULTS) == text
    with pytest.raises(ValueError, match="Received: nothing"):
        GENERATE["generated"]("<!-- results: nothing -->\n<!-- end of results -->", RESULTS)


def test_every_result_is_shown_and_says_how_it_was_measured():
    assert set(GENERATE["named"]((ROOT / "docs" / "benchmarks.md").read_text())) == set(RESULTS)
    for name, result in RESULTS.items():
        assert re.fullmatch(r"[0-9a-f]{7}", result["commit"]), name
        assert result["environment"]["processor"], name
        assert all(len(row) >= len(result["columns"]) for row in result.get("figures", [])), name
        script = re.search(r"benchmarks/\w+\.py|configs/\w+\.yaml", result["command"])[0]
        assert (ROOT / script).is_file(), f"{name}: {script}"


@pytest.mark.parametrize(
    "columns, cell, words", [("ab", "", "something in every cell"), ("aa", "1", "each column once")], ids=["empty", "twice"]
)
def test_tables_with_empty_cells_or_columns_of_one_name_are_refused(columns, cell, words):
    result = {"figures": [{"a": "1", "b": cell}], "columns": [[columns[0], "{a}"], [columns[1], "{b}"]]}
    with pytest.raises(ValueError, match=f"{words}.*Received: "):
        GENERATE["_check_table"]("mine", result)


def test_no_figure_of_the_benchmark_page_is_typed():
    """Outside of blocks stand words: no percentage, no ratio, no decimal number."""
    text = GENERATE["BLOCK"].sub("", (ROOT / "docs" / "benchmarks.md").read_text())
    assert not re.findall(r"\d+ ?%|\d+(?:\.\d+)?x\b|\d+\.\d+", text)
