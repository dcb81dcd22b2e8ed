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

    Of a class, by its qualified name, these are its constants with their names; of a function, by `qualified.name()`, the
    defaults of its arguments. Names that it takes from another module, by `from module import name`, are looked up in that
    one's file.

    Args:
        namespace: the globals of the module.
        name: one of its names, or a qualified one.
        left: how many files further it may come from.

    Returns:
        Text; empty for what is no assignment, such as a function, and where there is no such file.
    """
    try:
        found = _Assignments.of(pathlib.Path(namespace.get("__file__") or "").read_bytes())
    # A compiled module, one without a file, one that is edited at this moment, or with longer sums than Python goes into.
    except (OSError, ValueError, TypeError, SyntaxError, RecursionError):
        return ""
    if name in found.expressions:
        return "; ".join(found.expressions[name])
    sources = [found.imported[name]] if name in found.imported else [(module, name) for module in found.all_of]
    for module, its_name in sources if left else ():
        other = sys.modules.get(_absolute(module, namespace))
        if other is not None and its_name in vars(other):
            return written(vars(other), its_name, left - 1)
    return ""


def _absolute(module, namespace):
    try:
        return importlib.util.resolve_name(module, namespace.get("__package__"))
    except ImportError:
        return ""


class _Assignments(ast.NodeVisitor):
    """The assignments of a file and of its classes, and the defaults of its functions.

    Attributes:
        expressions: mapping of names to lists of text; see `written`.
        imported: mapping of names to `(module, name there)`.
        all_of: the modules of which the file takes all names.
    """

    def __init__(self):
        self.expressions, self.imported, self.all_of = {}, {}, []
        self._owner, self._prefix, self._is_function = None, "", False

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

    def visit_ClassDef(self, node):
        self._inside(node, f"{self._prefix}{node.name}", "")

    def visit_FunctionDef(self, node):
        name = f"{self._prefix}{node.name}"
        defaults = [*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)]
        for value in defaults:
            self.expressions.setdefault(f"{name}()", []).append(ast.unparse(value))
        self._inside(node, None, f"{name}.<locals>.")

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node):
        """Nothing has a name in it."""

    def _inside(self, node, owner, prefix):
        """Visits the body of a class, whose assignments are told together, or of a function, whose own are code."""
        before = self._owner, self._prefix, self._is_function
        self._owner, self._prefix, self._is_function = owner, prefix or f"{owner}.", owner is None
        for part in node.body:
            self.visit(part)
        self._owner, self._prefix, self._is_function = before

    def _note(self, target, value):
        several = (ast.Tuple, ast.List)
        if isinstance(target, several) and isinstance(value, several) and len(target.elts) == len(value.elts):
            for one, part in zip(target.elts, value.elts):
                self._note(one, part)
            return
        if self._is_function:
            return
        for part in ast.walk(target):
            if isinstance(part, ast.Name):
                text = ast.unparse(value)
                name, text = (part.id, text) if self._owner is None else (self._owner, f"{part.id} = {text}")
                self.expressions.setdefault(name, []).append(text)
