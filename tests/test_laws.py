"""The laws of the sources: who may import whom, one exit of a session, no hidden state, functions that fit a screen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from gpen.core import MODULES

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gpen"
FILES = sorted(PACKAGE.rglob("*.py"))
FOR_C = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])
SCREEN = 60  # lines

# What a room may import of gpen, itself included.
ROOMS = {
    "model": {"model"},
    "proto": {"proto", "model"},
    "docs": {"docs", "web", "control", "model"},
    "control": {"control", "model"},
    "wire": {"wire", "proto", "model"},
    "web": {"web", "control", "model"},
    "dsr": {"dsr", "wire", "proto", "model"},
    "daemon": {"daemon", "dsr", "web", "control", "wire", "proto", "model"},
    "gpenctl": {"control", "model"},  # gpenctl starts at once: without gevent
    "netlog": {"netlog", "daemon", "docs", "control", "model"},
    # the watcher is a client of the control socket like any other
    "galera": {"docs", "web", "control", "model", "gpenctl"},
    "discover": {"docs", "control", "model", "gpenctl"},  # so is whoever brings it servers
}
IMPURE = {"gevent", "greenlet", "socket", "_socket", "ssl", "select", "selectors", "asyncio", "threading"}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    """The directory of a file below gpen/, or the file's own name."""
    return path.relative_to(PACKAGE).parts[0]


def rooms_imported(path: Path) -> set[str]:
    rooms = rf"gpen\.({'|'.join(ROOMS)})\b"
    return {name.split(".")[1] for name in imports_of(path) if re.match(rooms, name)}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_there_are_sources() -> None:
    assert {room_of(path) for path in FILES} > set(ROOMS)


@each_file
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    if room in ROOMS:
        assert rooms_imported(path) <= ROOMS[room] | {room}
        assert not {name for name in imports_of(path) if re.match(r"gpen\.cli\b", name)}


def test_what_is_compiled_is_there_as_pure_python_too() -> None:
    """And Cython's files are beside the modules that are compiled, and nowhere else."""
    assert {module_of(path) for path in FOR_C} <= MODULES <= {module_of(path) for path in FILES}
    for path in FOR_C:
        imported = re.findall(r"^\s*(?:from|import|cimport) gpen\.(\w+)", path.read_text(), re.MULTILINE)
        assert set(imported) <= ROOMS[room_of(path)] | {room_of(path)}, path


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def loaded_by(path: Path) -> set[str]:
    """The modules of gpen that a file imports when it is imported itself, or later, but not for its types."""
    known, found = {module_of(file) for file in FILES}, set()
    for node in unless(tree_of(path), is_for_types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {node.module or ""}
    return found & known - {module_of(path)}


def unless(node: ast.AST, is_left_out: Callable[[ast.AST], bool]) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not is_left_out(child):
            yield child
            yield from unless(child, is_left_out)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def reached(room: str, arrows: set[tuple[str, str]]) -> set[str]:
    """The rooms to which arrows lead from one, over others too."""
    direct = {end for start, end in arrows if start == room}
    return direct.union(*(reached(other, arrows) for other in direct))


def test_the_picture_of_the_rooms_is_true() -> None:
    """Each arrow stands for an import that is allowed, and each import that is made for arrows."""
    arrows = set(re.findall(r"(\w+) -> (\w+);", (ROOT / "docs" / "rooms.dot").read_text()))
    drawn = {room: reached(room, arrows) for room in ROOMS}
    made = {room: set().union(*(rooms_imported(path) for path in FILES if room_of(path) == room)) - {room}
            for room in ROOMS}
    assert all(made[room] <= drawn[room] for room in ROOMS)
    assert all(drawn[room] <= ROOMS[room] | {"web", "dsr", "wire", "proto"} for room in ROOMS)
    svg = (ROOT / "docs" / "rooms.svg").read_text()
    assert len(arrows) == svg.count('class="edge"') and all(f">{room}</text>" in svg for room in ROOMS)


@pytest.mark.parametrize("name", ["connection", "listeners"])
def test_the_pictures_name_files_that_exist(name: str) -> None:
    named = re.findall(r"\w+/\w+\.py", (ROOT / "docs" / f"{name}.dot").read_text())
    svg = (ROOT / "docs" / f"{name}.svg").read_text()
    assert named and all((PACKAGE / file).exists() for file in named)
    assert all(file in svg for file in named), "run: make docs"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/ARCHITECTURE.md",
                                  "docs/MONITORING.md", "docs/TESTING.md", "docs/DISCOVERY.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    """Links are looked at by test_documents.py."""
    text = (ROOT / name).read_text()
    for file in re.findall(rf"`((?:{'|'.join(ROOMS)})/\w+\.py)`", text):
        assert (PACKAGE / file).exists(), file


def test_a_front_names_no_class_of_the_daemon() -> None:
    """A listener gets what it shares with others, and knows it by what it needs of it: of its own room it imports
    functions."""
    imported = [alias.name for node in ast.walk(tree_of(PACKAGE / "daemon" / "front.py"))
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gpen.daemon")
                for alias in node.names]
    assert imported and all(name.islower() for name in imported)


def test_no_circle_of_modules() -> None:
    """Each can be understood after those that it imports. For types alone, two may name each other."""
    left = {module_of(path): loaded_by(path) for path in FILES}
    while ready := {module for module, needed in left.items() if not needed & left.keys()}:
        left = {module: needed for module, needed in left.items() if module not in ready}
    assert not left


@each_file
def test_what_is_pure_can_not_switch_greenlets(path: Path) -> None:
    if room_of(path) in ("model", "proto", "control", "web"):
        assert not {name.split(".")[0] for name in imports_of(path)} & IMPURE


@each_file
def test_what_calls_itself_pure_is(path: Path) -> None:
    """Whoever reads `Pure.` at the head of a file relies on it: no socket, no thread, no clock."""
    if re.search(r"\bPure\.", ast.get_docstring(tree_of(path)) or ""):
        assert not {name.split(".")[0] for name in imports_of(path)} & (IMPURE | {"time", "datetime"})


def test_the_model_needs_the_standard_library_only() -> None:
    foreign = {name.split(".")[0] for path in FILES if room_of(path) == "model" for name in imports_of(path)}
    assert foreign <= set(sys.stdlib_module_names) | {"gpen"}


def test_model_and_protocols_have_no_clock_of_their_own() -> None:
    for path in FILES:
        if room_of(path) in ("model", "proto"):
            assert not {name.split(".")[0] for name in imports_of(path)} & {"time", "datetime"}, path


@pytest.mark.parametrize(("module", "absent"), [
    ("gpen.gpenctl.main", ("gevent", "greenlet", "ssl", "rich")),
    ("gpen.gpenctl.prompt", ("gevent", "greenlet", "ssl", "rich")),
    ("gpen.discover.main", ("gevent", "greenlet", "ssl", "dns", "yaml", "watchdog")),
    ("gpen.galera.main", ("gevent", "greenlet", "ssl", "pymysql")),
    ("gpen.discover.kubernetes", ("gevent", "greenlet", "dns", "yaml")),
    ("gpen.netlog.sender", ("gevent", "greenlet", "ssl")),
    ("gpen.netlog.collector", ("gevent", "greenlet", "ssl")),
    ("gpen.control.configuration", ("gevent", "greenlet", "socket")),
    ("gpen.control.reply", ("gevent", "greenlet", "socket")),
    ("gpen.model.pool", ("gevent", "greenlet", "socket")),
    ("gpen.proto.protocols", ("gevent", "greenlet", "socket")),
    ("gpen.web.application", ("gevent", "greenlet", "prometheus_client")),
    ("gpen.daemon.balancer", ("gevent.pywsgi", "gpen.web.application")),  # which most never need
])
def test_what_is_loaded(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; sys.exit(' '.join(set({absent!r}) & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{module} loads {done.stderr}"


def test_the_attributes_of_settings_are_those_of_the_table() -> None:
    """mypy believes the annotations of Settings; the values come from SETTINGS."""
    from gpen.model.settings import SETTINGS, Settings

    annotations = {name: text for name, text in Settings.__annotations__.items()
                   if name not in ("introduces", "limits_clients", "returns", "rule")}
    assert set(annotations) == {
        name for name, setting in SETTINGS.items() if not (setting.missing or setting.is_ignored)}
    words = {bool: "bool", int: "int", float: "float", str: "str"}
    for name, annotation in annotations.items():
        default = SETTINGS[name].default
        if default is None:
            assert annotation.endswith("| None"), name
        elif type(default) in words:
            assert {words[type(default)], "float"} & set(annotation.split(" | ")), name


# --- one exit --------------------------------------------------------------------------------------------------------


def calls_in(node: ast.AST) -> Iterator[str]:
    """The source of what each call in a node calls: ``self.down.close``."""
    return (ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call))


def test_a_session_has_one_exit() -> None:
    """Only steps of ``Session._close`` close its sockets, and only ``Session._end`` calls that: for ``run``, in a
    ``finally``, or for the hub, once bytes flow."""
    session = PACKAGE / "wire" / "session.py"
    closing = {function.name for function in functions(session)
               if any(isinstance(node, ast.Attribute) and node.attr in ("close", "shutdown", "detach")
                      for node in ast.walk(function))}
    assert closing == {"_end", "_leave_client"}
    users = {name: [function.name for function in functions(session)
                    if re.search(rf"\b{name}\b", ast.unparse(function))]
             for name in ("self._leave_client", "self._end")}
    assert users == {"self._leave_client": ["_end"], "self._end": ["run", "_finish"]}
    (run,) = (function for function in functions(session) if function.name == "run")
    (attempt,) = [node for node in run.body if isinstance(node, ast.Try)]
    assert "self._end" in [call for node in attempt.finalbody for call in calls_in(node)]


def test_leases_end_where_they_began() -> None:
    """A place on a server is given back by its session, flow or idler: where it dialled in vain, when the server's side
    has ended, or at its end; those of a worker are stand-ins, and what counts is in the main process (remote.py)."""
    ends = {(path.relative_to(PACKAGE).as_posix(), function.name) for path in FILES for function in functions(path)
            if any(re.search(r"lease\.(release|fail)$", call) for call in calls_in(function))}
    assert {(file, name) for file, name in ends if file != "wire/idlers.py"} == {
        ("wire/conversation.py", "_unreached"), ("wire/conversation.py", "_turned_down"),
        ("wire/conversation.py", "_blame"),
        ("wire/session.py", "parted"), ("wire/conversation.py", "_settle_accounts"),
        ("wire/remote.py", "parted"), ("wire/remote.py", "_give_back"), ("wire/worker_session.py", "_unreached")}


def test_a_client_s_sessions_are_counted_in_and_out_in_one_place_each() -> None:
    """Whoever is admitted is counted until the register of sessions forgets it, however it ends; also in a worker,
    where nobody asks."""
    places = {(path.relative_to(PACKAGE).as_posix(), function.name, call.rpartition(".")[2])
              for path in FILES for function in functions(path) for call in calls_in(function)
              if re.search(r"clients\.(touch|leave)$", call)}
    assert places == {("wire/conversation.py", "_admit", "touch"), ("daemon/front.py", "forget", "leave"),
                      ("daemon/worker.py", "forget", "leave")}


COUNTED_BY_LEASES = ("sessions", "total", "sx", "rx", "spares")


def changes_of_servers() -> Iterator[tuple[str, str]]:
    """Which file sets or counts what of a server, of a way to one, or of how a listener uses one."""
    for path in FILES:
        if room_of(path) in ("model", "wire", "dsr", "daemon", "control"):
            for node in ast.walk(tree_of(path)):
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                for target in [part for whole in targets for part in getattr(whole, "elts", [whole])]:
                    if isinstance(target, ast.Attribute) and re.search(
                            r"(^|\.)_?(server|other|emergency|target|member)$", ast.unparse(target.value)):
                        yield path.relative_to(PACKAGE).as_posix(), target.attr


def test_servers_are_changed_by_the_pool_only() -> None:
    """By the pool and what it is made of; where clients are served or people ask, a server is looked at."""
    changed = set(changes_of_servers())
    assert {file for file, _ in changed} == {f"model/{name}.py" for name in (
        "pool", "health", "lease", "events", "roster", "slowstart")}
    assert {file for file, name in changed if name in COUNTED_BY_LEASES} == {"model/lease.py"}
    assert {file for file, name in changed if name in ("down_until", "blamed", "reason", "is_silent", "kept_away")} == {
        "model/health.py"}
    assert {file for file, name in changed if name == "endpoints"} == {"model/pool.py"}
    located = {path.relative_to(PACKAGE).as_posix() for path in FILES
               if any(call.endswith("target.locate") for call in calls_in(tree_of(path)))}
    assert located == {"model/pool.py"}


# --- what somebody else has said -------------------------------------------------------------------------------------


def is_for_stderr(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name == "sys.stderr.write" or (name == "print" and any(
        keyword.arg == "file" and ast.unparse(keyword.value) == "sys.stderr" for keyword in call.keywords))


@each_file
def test_what_goes_to_stderr_is_made_printable(path: Path) -> None:
    """Beside what the diagnostics' handlers write, which have one formatter. start.py may import nothing."""
    assert "logging.Formatter(" not in path.read_text().replace("class _Formatter(logging.Formatter)", "")
    told = [call for call in ast.walk(tree_of(path)) if isinstance(call, ast.Call) and is_for_stderr(call)]
    assert path.name == "start.py" or not [ast.unparse(call) for call in told if "printable" not in calls_in(call)
                                           and not isinstance(call.args[0], ast.Constant)]


@each_file
def test_nobody_else_escapes(path: Path) -> None:
    if path != PACKAGE / "model" / "words.py":
        assert not re.search(r"unicode_escape|backslashreplace|\bascii\(|%r|!a\b", path.read_text())


# --- no hidden state -------------------------------------------------------------------------------------------------

MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MAKERS = {"list", "dict", "set", "bytearray", "deque", "defaultdict", "OrderedDict", "Counter", "count", "iter"}


def is_mutable(value: ast.expr | None) -> bool:
    made = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in MAKERS
    return made or isinstance(value, MUTABLE)


def globals_of(path: Path) -> Iterator[tuple[str, ast.expr | None]]:
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign):
            yield from ((ast.unparse(target), node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target), node.value


def changes_of(name: str, path: Path) -> Iterator[str]:
    """Statements in functions that change what a module's name holds."""
    for function in functions(path):
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield ast.unparse(node)
            elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
                targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
                if any(isinstance(target, ast.Subscript) and ast.unparse(target.value) == name for target in targets):
                    yield ast.unparse(node)
            elif isinstance(node, ast.Call) and re.fullmatch(
                    rf"{re.escape(name)}\.(append|add|pop|popitem|update|clear|extend|insert|remove|discard|setdefault)",
                    ast.unparse(node.func)):
                yield ast.unparse(node)


@each_file
def test_module_globals_are_tables(path: Path) -> None:
    """What a module holds that could change is a table: named in capitals, and never changed by a function."""
    for name, value in globals_of(path):
        if is_mutable(value):
            assert name.isupper() or name == "__all__", f"{name} is no table"
            assert not list(changes_of(name, path)), f"{name} is changed"
    assert not [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Global)]


# --- readable --------------------------------------------------------------------------------------------------------


@each_file
def test_functions_fit_a_screen(path: Path) -> None:
    long = {function.name: function.end_lineno - function.lineno + 1 for function in functions(path)
            if function.end_lineno and function.end_lineno - function.lineno >= SCREEN}
    assert not long


@pytest.mark.parametrize("path", [*FILES, *FOR_C], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_left_to_do(path: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text())


@each_file
def test_a_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)) or not path.read_text().strip()


@pytest.mark.parametrize("room", ["", "discover", "galera", "gpenctl"])
def test_the_tours_name_files_that_exist(room: str) -> None:
    """In the room that they are of, or by the whole path."""
    tour = ast.get_docstring(tree_of(PACKAGE / room / "__init__.py")) or ""
    named = re.findall(r"``?([\w/]+\.py)``?", tour)
    existing = {path.relative_to(ROOT).as_posix() for path in FILES} | {
        path.relative_to(PACKAGE).as_posix() for path in FILES} | {
        path.name for path in FILES if not room or path.parent.name == room}
    assert named and set(named) - {"tests/test_laws.py"} <= existing
