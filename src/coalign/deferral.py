"""Modules read for their flags alone: of each, only the statements that the wanted names stand on are run.

`coalign train RECIPE --help` needs the fields of a recipe, their types and defaults, and nothing of torch. Within
`flags_alone`, a module of this package is parsed, and a name at its top is defined when it is first needed: as the type
of a field, a base, a default, or since something is called that uses it. What was read so is forgotten afterwards.

Limits: only a module whose statements can be run apart is read so: docstrings, absolute imports without `*`, functions,
classes, assignments to names, and `if` around these. Any other is run whole. Of those read so, a decorator that enters
its class into a table has not done so before the class is needed, an error in a statement that nothing needs is not
seen, and `isinstance` by a name that a function's body has not called yet fails. It is for one thread, before others
start: `flags_alone` changes how the whole process imports.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import importlib.util
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]


@contextmanager
def flags_alone() -> Generator[None]:
    """Modules of this package that are not there yet are read name by name meanwhile."""
    finder, before = _Finder(), set(sys.modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.startswith(f"{PACKAGE}."):
                home, _, own = name.rpartition(".")
                vars(sys.modules.get(home, ModuleType(home))).pop(own, None)
                del sys.modules[name]


def value_of(module: str, name: str) -> Any:
    """The value of `from module import name`; within `flags_alone` without the rest of the module."""
    imported = importlib.import_module(module)
    if isinstance(imported.__loader__, _Loader):
        imported.__loader__.define(name)
    try:
        value = getattr(imported, name)
    except AttributeError:
        return importlib.import_module(f"{module}.{name}")
    return value.resolve() if isinstance(value, Later) else value


class Later:
    """Stands for a name at the top of a module until it is called or asked for an attribute."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def resolve(self) -> Any:
        """The object that it stands for."""
        return value_of(self._module, self._name)

    def stands_for(self, module: str, name: str) -> bool:
        """Whether it is for this name of this module."""
        return (self._module, self._name) == (module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.resolve()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.resolve(), name)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith(f"{PACKAGE}.") else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Defines the names of one module when they are asked for."""

    def exec_module(self, module: ModuleType) -> None:
        self._waiting: dict[str, list[ast.stmt]] = {}
        self._run, self._space = set[ast.stmt](), vars(module)
        tree = ast.parse(self.get_data(self.path), self.path)
        if not all(map(_separable, tree.body)):
            for statement in tree.body:
                if isinstance(statement, ast.ImportFrom):
                    _define_imported(statement, module.__spec__)
            super().exec_module(module)
            return
        module.__doc__ = ast.get_docstring(tree, clean=False)
        for statement in tree.body:
            for name in dict.fromkeys(_names_bound(statement)):
                self._waiting.setdefault(name, []).append(statement)
        self._space.update({name: Later(module.__name__, name) for name in self._waiting})

    def define(self, name: str) -> None:
        """Runs the statements that bind the name, and before them those that bind what they read."""
        statements = self._waiting.pop(name, [])
        for statement in statements:
            if isinstance(statement, ast.ImportFrom):
                alias = next(alias for alias in statement.names if name == (alias.asname or alias.name))
                self._space[name] = value_of(statement.module or "", alias.name)
                continue
            if statement in self._run:  # for another of its names
                continue
            self._run.add(statement)
            for needed in _names_read(statement):
                self.define(needed)
            code = compile(
                ast.Module([statement], []), self.path, "exec", __future__.annotations.compiler_flag, dont_inherit=True
            )
            exec(code, self._space)
        value = self._space.get(name)
        if statements and isinstance(value, Later):  # an `if` did not bind the name, or imported it
            if value.stands_for(self._space["__name__"], name):
                del self._space[name]
            else:
                self._space[name] = value.resolve()

    def define_all(self) -> None:
        """Runs what is left of the module."""
        for name in list(self._waiting):
            self.define(name)


def _define_imported(statement: ast.ImportFrom, spec: ModuleSpec | None) -> None:
    """Defines the names of this package that `statement`, run in a module of that spec, is to find."""
    home = "" if spec is None else spec.parent or ""
    module = importlib.util.resolve_name("." * statement.level + (statement.module or ""), home)
    if module.partition(".")[0] != PACKAGE:
        return
    for alias in statement.names:
        if alias.name != "*":
            value_of(module, alias.name)
        elif isinstance(loader := importlib.import_module(module).__loader__, _Loader):
            loader.define_all()


def _separable(statement: ast.stmt) -> bool:
    """Whether the names that a statement binds tell all that it does, so that it may wait until one is needed."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.ImportFrom):
        return not statement.level and all(alias.name != "*" for alias in statement.names)
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return all(
            isinstance(target, ast.Name)
            or (isinstance(target, ast.Tuple) and all(isinstance(part, ast.Name) for part in target.elts))
            for target in _targets(statement)
        )
    if isinstance(statement, ast.If):
        return all(map(_separable, (*statement.body, *statement.orelse)))
    return isinstance(statement, ast.Import | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _targets(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Sequence[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else (statement.target,)


def _names_bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module gives a value."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        if getattr(statement, "module", None) != "__future__":
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.If):
        for part in (*statement.body, *statement.orelse):
            yield from _names_bound(part)
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in _targets(statement):
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _names_read(node: ast.AST) -> Iterator[str]:
    """The names that running a statement looks up: not those in bodies and annotations of functions."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            yield from _names_read(part)
    elif not isinstance(node, ast.Lambda):
        for part in ast.iter_child_nodes(node):
            yield from _names_read(part)
