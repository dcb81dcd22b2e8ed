"""The pages of the site that are never typed: README, changelog, and the reference, from schema, flags and docstrings.

A hook of MkDocs. It adds the pages while the site is built; they are in no file.
"""

import importlib
import inspect
import pathlib
import re
import types

from absl import flags

import tf_reweight
from tf_reweight.cli import commands, main
from tf_reweight.workflow import keys

ROOT = pathlib.Path(__file__).parent.parent


def on_files(files, config):
    """Called by MkDocs with the files of the site."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages():
    """The content of each generated page by its path."""
    return {
        "index.md": inside((ROOT / "README.md").read_text(encoding="utf-8")),
        "changelog.md": inside((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
        "reference/configuration.md": configuration(),
        "reference/commands.md": command_line(),
        "reference/python.md": python(),
    }


def inside(text):
    """A page of the repository as one of the site: links into docs/ go to the pages, others are words."""
    text = re.sub(r"\]\(docs/", "](", text).replace("](CHANGELOG.md)", "](changelog.md)")
    text = re.sub(r"^\[!\[.*\n", "", text, flags=re.MULTILINE)  # badges link to files of the repository
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?://|[a-z_]+\.(?:md|png))[^)]*\)", r"`\1`", text)


def configuration():
    """One table for each section."""
    lines = ["# Configuration", "", "Every key of a YAML file; `--set section.key=value` overrides one.", ""]
    for group in keys.groups():
        lines += [f"## {group.name or 'Outside of sections'}", "", group.about, ""]
        lines += ["| key | value | default |", "|---|---|---|"]
        lines += [f"| `{key.path}` | {_cell(key.kind)} | `{_cell(key.default)}` |" for key in group.keys] + [""]
    return "\n".join(lines)


def command_line():
    """Usage, and one table of flags for each command."""
    lines = ["# Command line", "", "```text", main._USAGE.rstrip(), "```", ""]
    for name, row in commands.COMMANDS.items():
        values = flags.FlagValues()
        row[0](values)
        lines += [f"## {name}", ""]
        if len(values):
            lines += ["| flag | default | |", "|---|---|---|"]
            rows = [(flag, values[flag]) for flag in sorted(values)]
            lines += [f"| `--{name}` | {_shown(flag.default)} | {_escaped(_cell(flag.help))} |" for name, flag in rows]
        else:
            lines += ["No flags of its own."]
        lines += [""]
    return "\n".join(lines)


def python():
    """Every public name with its signature and docstring."""
    lines = ["# Python", ""]
    modules = [name for name in tf_reweight.__all__ if isinstance(getattr(tf_reweight, name), types.ModuleType)]
    for name in sorted(set(tf_reweight.__all__) - set(modules) - {"__version__"}):
        lines += _entry(f"tf_reweight.{name}", getattr(tf_reweight, name), 2)
    for module in modules:
        found = importlib.import_module(f"tf_reweight.{module}")
        lines += [f"## tf_reweight.{module}", "", *_doc(found), ""]
        for name in getattr(found, "__all__", ()):
            value = getattr(found, name)
            if callable(value):
                lines += _entry(f"tf_reweight.{module}.{name}", value, 3)
    return "\n".join(lines)


def _entry(name, value, level):
    return [f"{'#' * level} {name}", "", "```text", f"{name}{_signature(value)}", "```", "", *_doc(value), ""]


def _signature(value):
    """Names and plain defaults; hints would be longer than what the docstring says of them."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:  # an exception, whose arguments are those of Python's own
        return "(...)"
    return f"({', '.join(map(_parameter, parameters))})"


def _parameter(parameter):
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    plain = type(parameter.default) in (int, float, str, bool, type(None), tuple)
    return f"{stars}{parameter.name}" + (f"={parameter.default!r}" if plain else "")


def _doc(value):
    """A docstring as Markdown: its sections in bold, their entries as a list, its example as code."""
    text = inspect.getdoc(value) or ""
    lines, section, fenced = [], None, False
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Attributes|Example|Yields):", line)
        if heading:
            section = heading[1]
            lines += ["", f"**{section}**", ""]
            if section == "Example":
                lines, fenced = [*lines, "```pycon"], True
        elif section and line and not line.startswith(" "):
            lines, section, fenced = [*lines, *["```"] * fenced, "", line], None, False
        elif fenced:
            lines.append(line[4:])
        elif section and re.match(r" {4}\S", line):
            lines.append(f"- {_escaped(line.strip())}")
        else:
            lines.append(_escaped(line.strip()) if not section else f"  {_escaped(line.strip())}")
    return lines + ["```"] * fenced


def _escaped(text):
    """Angle brackets and square ones outside of code mean themselves."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;").replace("[", "\\[") for i, part in enumerate(parts))


def _shown(default):
    return "" if default in (None, []) else f"`{default}`"


def _cell(text):
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|")
