"""Writes what is generated into README and pages: results, from `benchmarks/results/*.json`.

    python docs/generate.py            # writes them
    python docs/generate.py --check    # says which differ, with exit status 1

A page has a block for each: `<!-- results: NAME ... -->`, what is generated, `<!-- end of results -->`. Text outside of blocks
is written by hand. The pages of the reference are never in a file: `docs/reference.py` makes them while the site is built.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/benchmarks.md")
BLOCK = re.compile(r"(<!-- (results|row|files): ([\w ]+) -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)
_NEEDED = ("title", "command", "commit", "recorded", "environment", "seeds", "findings")


def results():
    """Every result by its name; each says how, where and when it was measured."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    for name, result in read.items():
        missing = [key for key in _NEEDED if key not in result]
        if missing:
            raise ValueError(f"benchmarks/results/{name}.json must have {', '.join(_NEEDED)}. Received: no {missing[0]}.")
        if "figures" in result and not (result["figures"] and result.get("columns")):
            raise ValueError(f"benchmarks/results/{name}.json must have rows and columns, or no table. Received: an empty one.")
        _check_table(name, result)
    return read


def _check_table(name, result):
    """Raises for cells that say nothing, and for columns that cannot be told apart."""
    if "figures" not in result:
        return
    headings = _headings(result)
    twice = sorted({heading for heading in headings if headings.count(heading) > 1})
    if twice:
        raise ValueError(f"benchmarks/results/{name}.json must name each column once. Received: {twice[0]!r} twice.")
    empty = [row for row in _cells(result) if not all(cell.strip() for cell in row)]
    if empty:
        expected = f"benchmarks/results/{name}.json must have something in every cell, '–' for what was not measured."
        raise ValueError(f"{expected} Received: {empty[0]}.")


def section(result):
    """A result as it stands on a page: heading, conditions, table, one bullet for each finding."""
    lines = [f"### {result['title']}", "", *_conditions(result), ""]
    if "figures" in result:
        lines += [*_table(_headings(result), _cells(result)), ""]
    lines += [f"- {finding}" for finding in result["findings"]]
    return "\n".join(lines).rstrip()


def _sections(chosen):
    return "\n\n".join(map(section, chosen))


def _conditions(result):
    environment = ", ".join(value if key == "processor" else f"{key} {value}" for key, value in result["environment"].items())
    seeds = ", ".join(map(str, result["seeds"]))
    about = f"Measured at commit `{result['commit']}` on {environment}; {f'seeds {seeds}' if seeds else 'seeds not recorded'}."
    lines = ["```", result["command"], "```", "", f"{about} The figures were {result['recorded']}."]
    options = result.get("options", {})
    return lines + [""] * bool(options) + [f"- {mark} `{words}`" for mark, words in options.items()]


def _headings(result):
    return [heading.format(**result["figures"][0]) for heading, _ in result["columns"]]


def _cells(result):
    """The rows of a result's table."""
    return [[text.format(**row) for _, text in result["columns"]] for row in result["figures"]]


def _table(headings, rows):
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def headline(chosen):
    """The README's table: one line for each result."""
    rows = []
    for result in chosen:
        figures = result["figures"][0]
        row = result["row"]
        cells = [row[key].format(**figures).replace(" %", "%") for key in ("metric", "size", "speed")]
        rows.append([row["what"], *cells])
    headings = ["network and what was done", "as executed", "smaller: float32 / int8", "faster: float32 / int8"]
    return "\n".join(_table(headings, rows))


def whole_files(chosen):
    """The README's table of files: how many networks XNNPACK runs whole, for each precision."""
    rows = []
    for figures in (result["figures"] for result in chosen):
        for precision in dict.fromkeys(row["precision"] for row in figures):
            mine = [row for row in figures if row["precision"] == precision]
            counts = [sum(row[key] == "yes" for row in mine) for key in ("whole", "after")]
            rows.append([f"`{precision}`", *(f"{count} of {len(mine)}" for count in counts)])
    return "\n".join(_table(["file", "fully accelerated", "with `accelerated=True`"], rows))


def generated(text, read):
    """A page with all its blocks as the results have them."""

    def block(match):
        kind, names = match[2], match[3].split()
        unknown = [name for name in names if name not in read]
        if unknown:
            raise ValueError(f"A block names a result that is not there. Received: {unknown[0]}. Known: {', '.join(read)}.")
        chosen = [read[name] for name in names]
        made = {"row": headline, "files": whole_files}.get(kind, _sections)(chosen)
        return f"{match[1]}\n{made}\n\n{match[5]}"

    return BLOCK.sub(block, text)


def named(text):
    """The results that a page's blocks show."""
    return [name for match in BLOCK.finditer(text) for name in match[3].split()]


def main(check):
    read, different = results(), []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        made = generated(text, read)
        if made != text:
            different.append(page)
            if not check:
                path.write_text(made, encoding="utf-8")
    print(f"{'Different' if check else 'Written'}: {', '.join(different) or 'none'}.")
    return int(check and bool(different))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
