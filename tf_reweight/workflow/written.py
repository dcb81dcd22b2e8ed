"""What a file of code gives to its names, as it is written there: the same whatever the code has changed since as it ran."""

import ast
import functools
import importlib.util
import pathlib
import sys

# From file to file that names come from; files may import each other.
_FURTHEST = 8


def written(namespace, name, left=_FURTHEST):
    """The expressions that the file of a module gives to one of its names, as text without comments and line breaks.

    Names that it takes from another module, by `from module import name`, are looked up in that one's file.

    Args:
        namespace: the globals of the module.
        name: one of its names.
        left: how many files further it may come from.

    Returns:
        Text; empty for what is no assignment, such as a function, and where there is no such file.
    """
    try:
        text = pathlib.Path(namespace.get("__file__") or "").read_text(encoding="utf-8")
        found = _Assignments.of(text)
    except (OSError, ValueError, SyntaxError):  # a compiled module, one without a file, or one that is edited at this moment
        return ""
    if name in found.expressions:
        return "; ".join(found.expressions[name])
    sources = [found.imported[name]] if name in found.imported else [(module, name) for module in found.all_of]
    for module, its_name in sources if left else ():
        other = vars(sys.modules.get(_absolute(module, namespace), ast))
        if other is not vars(ast) and its_name in other:
            return written(other, its_name, left - 1)
    return ""


def _absolute(module, namespace):
    try:
        return importlib.util.resolve_name(module, namespace.get("__package__"))
    except ImportError:
        return ""


class _Assignments(ast.NodeVisitor):
    """The assignments of a file, outside of its functions and classes.

    Attributes:
        expressions: mapping of names to lists of text.
        imported: mapping of names to `(module, name there)`.
        all_of: the modules of which the file takes all names.
    """

    def __init__(self):
        self.expressions, self.imported, self.all_of = {}, {}, []

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, text):
        found = cls()
        found.visit(ast.parse(text))
        return found

    def visit_Assign(self, node):
        for target in node.targets:
            self._note(target, node.value)

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self._note(node.target, node.value)

    def visit_AugAssign(self, node):
        self._note(node.target, node)

    def visit_ImportFrom(self, node):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                self.all_of.append(module)
            else:
                self.imported[alias.asname or alias.name] = module, alias.name

    def visit_FunctionDef(self, node):
        """What is inside is none of the file's own."""

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def _note(self, target, value):
        several = (ast.Tuple, ast.List)
        if isinstance(target, several) and isinstance(value, several) and len(target.elts) == len(value.elts):
            for one, part in zip(target.elts, value.elts):
                self._note(one, part)
            return
        for part in ast.walk(target):
            if isinstance(part, ast.Name):
                self.expressions.setdefault(part.id, []).append(ast.unparse(value))
