"""The budgets of the code base, measured on its syntax trees: sizes, order of imports, documentation, no shortcuts."""

import ast
import re
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "lsf_jax").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

LAYERS = (
    *("settings", "types", "registry", "platforms", "cluster", "envs", "networks", "engine", "algorithms"),
    *("config", "programs", "runs", "analysis", "testing", "cli"),
)
"""The packages in the order in which data flows through them: none imports one that stands after it."""


def module_of(name):
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(name): tree for name, tree in TREES.items()}
NAMES = set(MODULES) - {"lsf_jax"}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTION)]


def body_lines(function):
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def depth(node):
    """How many `def`s stand inside each other below `node`, itself not counted."""
    children = [depth(child) + isinstance(child, FUNCTION) for child in ast.iter_child_nodes(node)]
    return max(children, default=0)


def parameters(function):
    listed = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [argument for argument in listed if argument.arg not in ("self", "cls")]


def imports(tree):
    """Every module of the package that is imported anywhere in a file, inside functions and by `import_module` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "lsf_jax")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lsf_jax":
            longer = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in longer)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES:
            yield node.value  # a name to import later


def layer_of(module):
    return LAYERS.index(module.split(".")[1])


def public(body):
    """Public functions and classes of a module, and the public methods of its public classes."""
    for node in body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            yield from public(node.body) if isinstance(node, ast.ClassDef) else ()


def offences(found):
    """`file:line` of every node that `found` picks out of a file's tree."""
    return [f"{name}:{node.lineno}" for name, tree in TREES.items() for node in ast.walk(tree) if found(name, node)]


def test_functions_are_short():
    sizes = {f"{name}:{f.lineno} {f.name}": body_lines(f) for name, tree in TREES.items() for f in functions(tree)}
    assert {where: size for where, size in sizes.items() if size > 80} == {}
    assert quantiles(sizes.values(), n=10)[-1] <= 40
    assert median(sizes.values()) <= 12


def test_files_are_short():
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
    assert median(sizes.values()) <= 200


def test_functions_nest_at_most_twice():
    assert offences(lambda _, node: isinstance(node, FUNCTION) and depth(node) > 2) == []


def test_no_public_function_bears_a_modules_name():
    """Else `from lsf_jax.x import name` could be either."""
    modules = {name.rpartition(".")[2] for name in MODULES}
    assert [f"{m} {f.name}" for m, t in MODULES.items() for f in t.body if getattr(f, "name", "") in modules] == []


def test_functions_take_at_most_8_parameters():
    assert offences(lambda _, node: isinstance(node, FUNCTION) and len(parameters(node)) > 8) == []


def test_at_most_five_modules_stand_beside_the_packages():
    assert len([name for name in FILES if name.count("/") == 1]) <= 5


def test_no_package_imports_upwards():
    below = {name: tree for name, tree in MODULES.items() if name != "lsf_jax"}
    up = [(name, other) for name, tree in below.items() for other in imports(tree) if other == "lsf_jax"]
    up += [(n, o) for n, tree in below.items() for o in imports(tree) if o != "lsf_jax" and layer_of(o) > layer_of(n)]
    assert up == []


def test_no_modules_import_each_other_in_a_circle():
    waiting = {name: set(imports(tree)) - {name} for name, tree in MODULES.items()}
    while ready := [name for name, needed in waiting.items() if not needed & set(waiting)]:
        for name in ready:
            del waiting[name]
    assert waiting == {}


def test_everything_public_has_a_docstring():
    bare = [f"{name}:1" for name, tree in TREES.items() if not ast.get_docstring(tree)]
    bare += [f"{n}:{f.lineno}" for n, tree in TREES.items() for f in public(tree.body) if not ast.get_docstring(f)]
    assert bare == []


def test_every_parameter_and_result_is_annotated():
    def is_open(_, node):
        if not isinstance(node, FUNCTION) or node.name == "__init__":
            return False
        variadic = [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
        return node.returns is None or any(a.annotation is None for a in parameters(node) + variadic)

    assert offences(is_open) == []


def test_configs_are_frozen_and_never_written_to():
    def is_config(node):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        return re.fullmatch(r"(.*_)?(cfg|config|settings)", name) is not None

    def writes(_, node):
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
            return any(isinstance(t, (ast.Attribute, ast.Subscript)) and is_config(t.value) for t in targets)
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        return called in ("setattr", "object.__setattr__")

    def is_thawed(_, node):
        decorators = [ast.unparse(d) for d in node.decorator_list] if isinstance(node, ast.ClassDef) else []
        return any("dataclass" in d and "frozen=True" not in d for d in decorators)

    assert offences(writes) == []
    assert offences(is_thawed) == []


def test_no_asserts_prints_or_bare_excepts():
    suites = "lsf_jax/testing/"  # where `assert` is at home
    assert offences(lambda n, node: not n.startswith(suites) and isinstance(node, ast.Assert)) == []
    assert offences(lambda _, node: isinstance(node, ast.ExceptHandler) and node.type is None) == []
    assert (
        offences(lambda n, node: not n.startswith("lsf_jax/cli/") and isinstance(node, ast.Name) and node.id == "print")
        == []
    )


def test_nothing_names_a_path_of_one_machine():
    path = re.compile(r"(?<![\w.:/<>)}\]*~-])/(?!proc/|sys/|dev/)[A-Za-z][\w.-]*/[\w.-]+|\b[A-Z]:\\\\?\w")
    sources = [p for suffix in ("py", "yaml", "toml", "md") for p in ROOT.glob(f"lsf_jax/**/*.{suffix}")]
    sources += [*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("*.toml"), *ROOT.glob("*.md")]
    found = {p.relative_to(ROOT).as_posix(): path.findall(p.read_text(encoding="utf-8")) for p in sources}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_no_ten_lines_appear_twice():
    seen, twice = {}, []
    for name, path in FILES.items():
        imported = {
            n
            for node in ast.walk(TREES[name])
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for n in range(node.lineno, node.end_lineno + 1)
        }
        lines = [(number, line.strip()) for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)]
        lines = [(n, x) for n, x in lines if x and not x.startswith("#") and n not in imported]
        for start in range(len(lines) - 9):
            window = tuple(line for _, line in lines[start : start + 10])
            where = f"{name}:{lines[start][0]}"
            twice += [(seen[window], where)] if window in seen else []
            seen[window] = where
    assert twice == []
