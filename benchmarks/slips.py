"""The slips that `mutation.py` puts into the code: where they can be, and what each changes."""

import ast
import bisect
import dataclasses

PACKAGE = "tf_reweight"

_COMPARISONS = {
    ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
_FUNCTIONS = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "sum": "mean", "mean": "sum", "any": "all",
    "all": "any", "argmin": "argmax", "argmax": "argmin", "floor": "ceil", "ceil": "floor", "zeros_like": "ones_like",
    "ones_like": "zeros_like", "zeros": "ones", "ones": "zeros",
}  # fmt: skip
_BUILT_IN = {"min", "max", "any", "all"}  # `sum` has no `mean` beside it.
_SILENT_KEYWORDS = {"verbose", "name", "strict", "fix"}
_TEXTS = {"message", "unknown", "warn", "print"}


@dataclasses.dataclass(frozen=True, order=True)
class Slip:
    """One change: the bytes from `start` to `end` of a file of the package become `after`."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    def __str__(self):
        return f"{self.file}:{self.line}: {' '.join(self.before.split())!r} -> {self.after!r}"


class Finder(ast.NodeVisitor):
    """Collects the slips of one file. `scopes` has the first line of the function around each line, if there is one."""

    def __init__(self, file, source):
        self.file, self.source, self.slips, self.scopes = file, source, [], {}
        lengths = [len(line) for line in source.splitlines(keepends=True)]
        self._starts = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
        self._lazy = file.endswith("__init__.py")

    def begin(self, node):
        return self._starts[node.lineno - 1] + node.col_offset

    def finish(self, node):
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, start, end):
        return self.source[start:end].decode()

    def add(self, start, end, after):
        line = bisect.bisect_right(self._starts, start)
        self.slips.append(Slip(self.file, line, start, end, self.text(start, end), after))

    def swap_between(self, left, right, words):
        """Another operator between two operands; parentheses around them are left alone."""
        start, (before, after) = self.finish(left), words
        where = self.text(start, self.begin(right)).find(before)
        if where >= 0:
            self.add(start + where, start + where + len(before), after)

    def visit_Module(self, node):
        for statement in node.body:
            if not (self._lazy and not isinstance(statement, (ast.FunctionDef, ast.ClassDef))):
                self.visit(statement)

    def visit_FunctionDef(self, node):
        if node.name in ("__repr__", "__str__") or any("overload" in ast.unparse(mark) for mark in node.decorator_list):
            return
        for line in range(node.lineno, node.end_lineno + 1):
            self.scopes[line] = (node.body[0].lineno, node.end_lineno)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self.visit_body(node.body)

    def visit_ClassDef(self, node):
        self.visit_body(node.body)

    def visit_body(self, body):
        for statement in body:
            self.visit(statement)

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def skip(self, node):
        """Nothing in here is a slip."""

    visit_Raise = visit_Import = visit_ImportFrom = visit_JoinedStr = visit_Assert = visit_Global = skip

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call) and _called(node.value) not in _TEXTS:
            self.add(self.begin(node), self.finish(node), "pass")
        self.visit(node.value)

    def visit_Assign(self, node):
        if any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self.add(self.begin(node), self.finish(node), "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.add(self.begin(node), self.finish(node), "pass")
        self.swap_between(node.target, node.value, _ARITHMETIC.get(type(node.op), ("\0", "")))
        self.generic_visit(node)

    def visit_If(self, node):
        for branch in (node.body, node.orelse):
            if len(branch) == 1 and isinstance(branch[0], (ast.Return, ast.Continue, ast.Break)):
                self.add(self.begin(branch[0]), self.finish(branch[0]), "pass")
        self.generic_visit(node)

    def visit_Compare(self, node):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            self.swap_between(left, right, _COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node):
        if not any(_is_text_or_list(side) for side in (node.left, node.right)):
            self.swap_between(node.left, node.right, _ARITHMETIC.get(type(node.op), ("\0", "")))
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]):
            self.swap_between(left, right, words)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        width = {ast.Not: 4, ast.USub: 1, ast.Invert: 1}.get(type(node.op), 0)
        if width:
            self.add(self.begin(node), self.finish(node), self.text(self.begin(node) + width, self.finish(node)).strip())
        self.generic_visit(node)

    def visit_Constant(self, node):
        changed = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: 2 * value or 1.0}
        if type(node.value) in changed:
            self.add(self.begin(node), self.finish(node), repr(changed[type(node.value)](node.value)))
            if type(node.value) is int and node.value == 1:
                self.add(self.begin(node), self.finish(node), "0")

    def visit_Call(self, node):
        name = _called(node)
        if name in _TEXTS:
            return
        plain = isinstance(node.func, ast.Name)
        if name in _FUNCTIONS and (not plain or name in _BUILT_IN):
            end = self.finish(node.func)
            self.add(end - len(name), end, _FUNCTIONS[name])
        if name in ("abs", "absolute") and len(node.args) == 1:
            argument = self.text(self.begin(node.args[0]), self.finish(node.args[0]))
            self.add(self.begin(node), self.finish(node), f"({argument})")
        for before, keyword in zip([None, *node.keywords], node.keywords):
            if keyword.arg is not None and keyword.arg not in _SILENT_KEYWORDS:
                self.drop(node, before, keyword)
        self.generic_visit(node)

    def drop(self, call, before, keyword):
        """Leaves out one keyword argument, with a comma beside it."""
        start, end = self.begin(keyword), self.finish(keyword)
        rest = self.text(end, self.finish(call))
        comma = len(rest) - len(rest.lstrip())
        if rest.lstrip().startswith(","):
            end += comma + 1
        else:
            previous = before or (call.args[-1] if call.args else None)
            start = start if previous is None else self.finish(previous)
        self.add(start, end, "")


def _called(call):
    return getattr(call.func, "attr", getattr(call.func, "id", None))


def _is_text_or_list(node):
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp))


def find(folder, rooms):
    """All slips of the rooms, in order, and the scopes of their files."""
    slips, scopes = [], {}
    for room in rooms:
        for path in sorted((folder / PACKAGE / room).rglob("*.py")):
            file, source = path.relative_to(folder / PACKAGE).as_posix(), path.read_bytes()
            finder = Finder(file, source)
            finder.visit(ast.parse(source))
            slips += [slip for slip in finder.slips if _compiles(source, slip)]
            scopes[file] = finder.scopes
    return sorted(set(slips)), scopes


def _compiles(source, slip):
    try:
        ast.parse(changed(source, slip))
    except SyntaxError:
        return False
    return True


def changed(source, slip):
    return source[: slip.start] + slip.after.encode() + source[slip.end :]
