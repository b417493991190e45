"""A user's own function, given on the command line as MODULE:FUNCTION."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import symtable
import sys
import traceback
import weakref
from collections.abc import Callable
from typing import Any

from skd_tf.errors import did_you_mean, input_error

_REFERENCE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
APPLICATIONS, HUB = "keras.applications", "keras_hub"
_NETWORK = ("input_shape", "num_classes")
ARGUMENTS = {  # flag -> what its function is given
    "student": _NETWORK,
    "teacher": _NETWORK,
    "dataset": ("data_dir",),
    "loss": ("student_logits", "teacher_logits", "labels"),
    "callback": ("record",),
}


def is_reference(text: str) -> bool:
    """Whether a text reads MODULE:FUNCTION."""
    return bool(_REFERENCE.fullmatch(text))


def published(text: str) -> tuple[str, str] | None:
    """(library, NAME) of a text that reads keras.applications:NAME or keras_hub:PRESET, else None."""
    library, _, name = text.partition(":")
    return (library, name) if library in (APPLICATIONS, HUB) and name else None


def require(text: str, flag: str) -> None:
    """Checks that MODULE:FUNCTION exists. Its source is read; it is imported only if that does not define the name.

    Raises:
      InputError: there is no such module or function.
    """
    module, _, name = text.partition(":")
    found = _find(module, text, flag)
    try:
        source = getattr(found.loader, "get_source", lambda _: None)(module)
        defined = source and symtable.symtable(source, found.origin or module, "exec").lookup(name)
    except KeyError:
        defined = None
    except (SyntaxError, ImportError, OSError, ValueError) as error:
        raise _import_error(module, text, flag, error) from error
    if not defined or not (defined.is_assigned() or defined.is_imported()):
        resolve(text, flag)


def resolve(text: str, flag: str) -> Callable[..., Any]:
    """Imports the function that MODULE:FUNCTION names. This runs the module's code, which is trusted.

    Args:
      text: MODULE:FUNCTION.
      flag: that gave it, a key of `ARGUMENTS`.

    Raises:
      InputError: there is no such module or function, the module cannot be imported, or the function takes other
        arguments.
    """
    module, _, name = text.partition(":")
    _find(module, text, flag)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a user's code raises
        raise _import_error(module, text, flag, error) from error
    if not callable(function):
        raise input_error(
            "The module has no such function",
            expected=f"a function of {module}",
            received=f"--{flag}={text}",
            remedy="Check the name",
        )
    fingerprint(text)  # while the file is still what was imported
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return function
    try:
        # A loss can need settings as well, which it is given by name.
        (signature.bind_partial if flag == "loss" else signature.bind)(*ARGUMENTS[flag])
    except TypeError as error:
        raise input_error(
            "The function takes other arguments",
            expected=f"{name}({', '.join(ARGUMENTS[flag])})",
            received=f"{name}{signature} from --{flag}={text}",
            remedy="Change its parameters",
        ) from error
    return function


def joined_modules(*names: str) -> str:
    """The modules in several texts of --custom_layers, each once.

    Example:
      >>> joined_modules("a,b", "", "b,c")
      'a,b,c'
    """
    return ",".join(dict.fromkeys(filter(None, ",".join(names).split(","))))


def require_modules(names: str) -> None:
    """Raises `InputError` unless each of the modules of --custom_layers exists. Those that contain them are imported."""
    for module in filter(None, names.split(",")):
        _find(module, names, "custom_layers")


def import_modules(names: str) -> None:
    """Imports the modules of --custom_layers, so that their layers are registered with Keras. This runs their code.

    Raises:
      InputError: there is no such module, or it cannot be imported.
    """
    require_modules(names)
    for module in filter(None, names.split(",")):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a user's code raises
            raise _import_error(module, names, "custom_layers", error) from error


def fingerprint_if_own(text: str) -> str | None:
    """`fingerprint` of a setting that is MODULE:FUNCTION; None for any other name."""
    return fingerprint(text) if is_reference(text) else None


def fingerprint(text: str) -> str:
    """SHA-256 of the code of MODULE:FUNCTION and of what it uses of its own module; comments and layout do not count.

    "" for a function without source. A function keeps the fingerprint that it had when `resolve` imported it, though its file
    may change while it is in use.
    """
    module, _, name = text.partition(":")
    function = inspect.unwrap(getattr(importlib.import_module(module), name))
    code = getattr(function, "__code__", None)  # IPython's autoreload replaces it in place
    with contextlib.suppress(TypeError):  # a callable that has no hash, or no weak references
        if _fingerprints.get(function, (None, ""))[0] is not code or function not in _fingerprints:
            _fingerprints[function] = code, _fingerprint(function, module, name)
        return _fingerprints[function][1]
    return _fingerprint(function, module, name)


_fingerprints: weakref.WeakKeyDictionary[Callable, tuple] = weakref.WeakKeyDictionary()


def _fingerprint(function, module, name):
    own = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    # Not of what a factory, a lambda or functools.partial made: its own name leads nowhere.
    if getattr(sys.modules.get(own[0]), own[1], None) is function:
        module, name = own
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return ""
    assigned = {node.id for part in tree.body for node in _nodes(part) if _is_stored_name(node)}
    used, wanted = set(), {name}
    while wanted:
        used |= wanted
        parts = [part for part in tree.body if used & _sets(part, assigned)]
        wanted = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)} - used
    return hashlib.sha256("\n".join(map(ast.unparse, parts)).encode()).hexdigest() if parts else ""


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _nodes(statement):
    """A statement of a module and its parts, without the insides of functions and of what runs as a script alone."""
    is_script = isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
    return [statement] if isinstance(statement, _FUNCTIONS) or is_script else list(ast.walk(statement))


def _is_stored_name(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _sets(statement, assigned):
    """The names that a statement of a module sets, or whose objects it changes: `TABLE["t"] = 4`, `LIST.append(1)`.

    Args:
      statement: of a module.
      assigned: names that the module assigns. A call changes no other, such as a module that it imports.
    """
    nodes = _nodes(statement)
    names = {node.name for node in nodes if isinstance(node, _FUNCTIONS)}
    names |= {node.id for node in nodes if _is_stored_name(node)}
    parts = (ast.Subscript, ast.Attribute)
    names |= {_root(node) for node in nodes if isinstance(node, parts) and isinstance(node.ctx, ast.Store)}
    calls = [node.value.func for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    names |= {_root(call) for call in calls if isinstance(call, ast.Attribute)} & assigned
    return names | {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}


def _root(node):
    """The name at the start of `name.a["b"].c`; "" without one."""
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _find(module, text, flag):
    """Where a module is, without running it; the packages that contain it are run."""
    if not {"", os.getcwd()} & set(sys.path):  # python -m looks there, a console script does not
        sys.path.insert(0, os.getcwd())
    found, container = None, module.rpartition(".")[0]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # it is another one, which the container needs
            raise _import_error(container, text, flag, error) from error
    except ValueError:  # __main__
        pass
    except Exception as error:  # whatever the code of a package raises
        raise _import_error(container, text, flag, error) from error
    if found is None:
        raise input_error(
            f"There is no module {module}",
            expected="a module in the current folder or installed",
            received=f"--{flag}={text}",
            remedy=did_you_mean(
                module,
                [APPLICATIONS] if flag in ("student", "teacher") else [],
                "Check the name and the folder, or set PYTHONPATH",
            ),
        )
    return found


def _import_error(module, text, flag, error):
    """The `InputError` about a module that fails when it is imported: what it raised, and in which line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = (error.filename, error.lineno) if isinstance(error, SyntaxError) else None
    if place is None and frames and frames[-1].filename != __file__:
        place = frames[-1].filename, frames[-1].lineno
    return input_error(
        f"The module {module} cannot be imported",
        expected="a module that runs to its end",
        received=f"{type(error).__name__}: {str(error).split(' (')[0]}"
        + (f" in {place[0]} line {place[1]}" if place else "")
        + f", with --{flag}={text}",
        remedy="Correct it, or install what it needs",
    )
