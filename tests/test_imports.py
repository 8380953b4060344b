"""The import direction of the design, the public names, and what an import costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbrl

PACKAGE = Path(nbrl.__file__).parent

# Part by part: what of ours it may import. kernels <- nets <- actions <- methods <- learner <- snapshot <- run <-
# trainer <- cli. A setting stands with what reads it, so the settings of a run are gathered from the methods.
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "settings": set(),
    "nets.table": {"kernels", "numpy_policy"},  # of the last, the numbers that both versions go by
    "nets.affine": {"kernels", "nets.table"},
    "nets.dense": {"kernels", "nets.table", "nets.affine"},
    "nets.conv": {"kernels", "nets.table", "nets.affine"},
    "nets.lstm": {"kernels", "nets.table", "nets.affine", "nets.dense"},
    "nets.gru": {"kernels", "nets.table", "nets.affine", "nets.dense", "nets.lstm"},
    "nets.layer_norm": {"kernels", "nets.table", "nets.affine"},
    "nets.communicate": {"kernels", "nets.table", "nets.affine", "nets.dense"},
    "nets.everyone": {"kernels", "nets.table"},
    "nets.channel": {"kernels", "nets.table", "nets.affine", "nets.dense", "nets.gru"},
    "nets.layers": {
        "nets.affine", "nets.dense", "nets.conv", "nets.lstm", "nets.gru", "nets.layer_norm", "nets.communicate",
        "nets.channel",
    },
    "nets": {"spaces", "kernels", "nets.table", "nets.dense", "nets.everyone", "nets.conv", "nets.layers"},
    "actions": {"kernels", "nets.table", "numpy_policy", "spaces"},
    "methods": set(),  # names alone
    "methods.optimisers": {"kernels", "settings"},
    "methods.running_statistics": {"kernels", "nets.table"},
    "methods.state": {
        "kernels", "nets", "nets.table", "methods.optimisers", "methods.running_statistics", "settings", "spaces",
    },
    "methods.driver": {
        "kernels", "nets.table", "actions", "envs", "methods.optimisers", "methods.running_statistics", "methods.state",
        "settings", "spaces",
    },
    "methods.*": {  # the methods
        "kernels", "nets", "nets.table", "nets.layers", "actions", "methods.state", "methods.driver", "settings",
    },
    "bonuses": {
        "kernels", "nets", "nets.table", "nets.layers", "actions", "methods.optimisers", "methods.running_statistics",
        "methods.state", "settings", "space_descriptions", "spaces",
    },
    "registration": set(),
    "space_descriptions": set(),
    "spaces": {"space_descriptions"},
    "envs": {"kernels", "registration", "settings", "spaces", "space_descriptions"},
    "exchange": {"callbacks", "kernels", "methods.running_statistics", "settings"},
    "cluster": {"config", "exchange", "kernels", "settings", "trainer"},
    "config": {"bonuses", "exchange", "spaces", "nets.layers", "methods", "methods.optimisers", "settings", "envs"},
    "machine": {"nbrl", "kernels", "config"},
    "metrics": {"nbrl", "config", "checkpoint", "machine"},
    "tensorboard": set(),
    "callbacks": set(),
    "scores": set(),
    "plots": {"config", "scores"},
    "report": {"checkpoint", "config", "metrics", "plots"},
    "checkpoint": set(),
    "numpy_layers": set(),
    "policy_file": {"checkpoint", "numpy_layers", "spaces"},
    "numpy_policy": {"checkpoint", "numpy_layers", "policy_file", "spaces"},
    "agent": {
        "kernels", "nets", "nets.layers", "nets.table", "actions", "checkpoint", "numpy_policy", "policy_file",
        "space_descriptions", "spaces",
    },
    "evaluation": {"settings", "kernels", "actions", "agent", "envs", "config", "numpy_policy", "spaces"},
    "learner": {
        "nets", "nets.table", "actions", "methods", "methods.optimisers", "methods.running_statistics", "methods.state",
        "methods.driver", "bonuses", "envs", "config", "agent", "settings",
    },
    "snapshot": {"envs", "nets.table", "methods.running_statistics", "methods.*", "checkpoint", "agent", "learner"},
    "run": {
        "kernels", "learner", "snapshot", "methods.state", "methods.driver", "config", "metrics", "checkpoint", "agent",
        "evaluation", "callbacks", "symptoms", "tensorboard",
    },
    "symptoms": {"learner", "methods.state", "metrics"},
    "trainer": {"callbacks", "nets.layers", "envs", "checkpoint", "run", "config", "metrics", "agent"},
    "online": {
        "kernels", "actions", "methods.driver", "envs", "config", "checkpoint", "agent", "learner", "snapshot", "run",
    },
    "animation": {"kernels", "agent", "checkpoint", "envs", "evaluation"},
    "human": {"envs", "registration"},
    "bench": {
        "kernels", "nets.table", "actions", "methods.driver", "methods.*", "envs", "config", "learner", "trainer",
    },
    "studies": {
        "agent", "callbacks", "checkpoint", "cluster", "config", "evaluation", "metrics", "nets.layers", "plots",
        "scores", "settings", "trainer",
    },
    "arguments": {"config", "nets.layers", "settings"},
    "cli": {
        "nbrl", "arguments", "cluster", "studies", "config", "machine", "metrics", "checkpoint", "plots", "report",
        "envs", "agent", "evaluation", "animation", "human", "trainer", "bench", "registration", "methods",
        "methods.optimisers",
    },
    "testing": {  # of which nothing else knows
        "actions", "agent", "checkpoint", "config", "envs", "evaluation", "learner", "methods", "methods.driver",
        "methods.optimisers", "methods.state", "nbrl", "nets", "nets.layers", "nets.table", "online", "snapshot",
        "space_descriptions", "spaces", "trainer",
    },
    "__main__": {"cli"},
}  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(module: str) -> str:
    """Return the part of the design that a module of ours, named without ``nbrl.``, belongs to."""
    package = module.split(".")[0]
    return next((name for name in (module, f"{package}.*") if name in ALLOWED), package)


def name_of(path: Path) -> str:
    """Return the name of a module of ours without ``nbrl.``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, module: str) -> set[str]:
    """Return the modules of ours that a file imports when it runs, named without ``nbrl.``."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            # A name may be a module: nbrl, or nbrl.envs with atari.
            found |= {
                f"{node.module}.{a.name}" if is_module(f"{node.module}.{a.name}") else node.module for a in node.names
            }
        else:
            found |= {f"nbrl.{name}" for name in imported(node, module)}
    return {name.removeprefix("nbrl.") for name in found if name == "nbrl" or name.startswith("nbrl.")}


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path):
    module = name_of(path)
    own = part(module)
    others = {part(name) for name in imported(ast.parse(path.read_text()), module)}
    assert others - {own} <= ALLOWED[own]


def test_every_part_of_the_design_is_there():
    assert {part(name_of(path)) for path in FILES} == set(ALLOWED)


def test_public_names():
    assert nbrl.__all__ == [
        "Agent",
        "Callback",
        "CheckpointError",
        "Cluster",
        "Config",
        "Conv",
        "Dense",
        "Evaluation",
        "Gru",
        "LayerNorm",
        "Lstm",
        "NativeEnvironment",
        "NumpyPolicy",
        "OnlineLearner",
        "Report",
        "Trainer",
        "configure",
        "evaluate",
        "play",
        "study",
        "train",
    ]
    assert all(hasattr(nbrl, name) for name in nbrl.__all__)
    assert set(nbrl.__all__) <= set(dir(nbrl))
    with pytest.raises(AttributeError, match="module 'nbrl' has no attribute 'Agnet'"):
        nbrl.Agnet  # noqa: B018


def run_python(program: str, variables: dict[str, str]) -> str:
    ended = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return ended.stdout


def test_names_are_imported_when_they_are_first_asked_for(environment_variables):
    program = (
        "import sys, nbrl\n"
        "print([name for name in ('numpy', 'numba', 'gymnasium') if name in sys.modules])\n"
        "print([name for name in nbrl.__all__ if name in vars(nbrl)])\n"
        "from nbrl import *\n"
        "print([name for name in nbrl.__all__ if globals()[name].__name__ != name])\n"
        "import nbrl.evaluation\n"  # a module whose function has nearly its name
        "print(nbrl.evaluate is nbrl.evaluation.evaluate is evaluate)\n"
    )
    assert run_python(program, environment_variables) == "[]\n[]\n[]\nTrue\n"


@pytest.mark.parametrize(
    "program",
    [
        "import gymnasium, nbrl; name = 'nbrl/Maze-v0'",
        "import nbrl.envs, gymnasium; name = 'nbrl/Maze-v0'",
        "import gymnasium; name = 'nbrl:nbrl/Maze-v0'",
        "import nbrl, gymnasium; name = 'nbrl.envs:nbrl/Maze-v0'",
    ],
)
def test_gymnasium_knows_the_mazes(environment_variables, program):
    program += "; print(gymnasium.make(name).reset(seed=1)[0].shape)"
    assert run_python(program, environment_variables) == "(84, 84, 3)\n"


@pytest.mark.parametrize("name", nbrl.__all__)
def test_a_name_can_be_the_first_one(environment_variables, name):
    assert run_python(f"import nbrl; print(nbrl.{name}.__name__)", environment_variables) == f"{name}\n"


def test_threads_may_ask_first_at_the_same_time(environment_variables):
    program = (
        "import numba, threading, nbrl\n"
        "before, found, together = numba.config.CACHE_DIR, {}, threading.Barrier(len(nbrl.__all__))\n"
        "def ask(name):\n"
        "    together.wait()\n"
        "    found[name] = getattr(nbrl, name)\n"
        "threads = [threading.Thread(target=ask, args=(name,)) for name in nbrl.__all__]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "from nbrl.kernels.compile import CACHE_FOLDER\n"
        "from nbrl.evaluation import _play_episode\n"
        "print(all(found[name] is getattr(nbrl, name) for name in nbrl.__all__))\n"
        "print(numba.config.CACHE_DIR == before)\n"
        "print(CACHE_FOLDER is None or str(CACHE_FOLDER) in str(_play_episode._cache.cache_path))\n"
    )
    assert run_python(program, environment_variables) == "True\n" * 3


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_while_the_program_loads_shows_no_traceback(environment_variables):
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job inherits none
        "class Impatient:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'numba':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from nbrl.__main__ import main\n"
        "print(main())\n"
    )
    assert run_python(program, environment_variables) == "130\n"


@pytest.mark.parametrize("extra", ["ale_py", "mujoco", "matplotlib", "pytest", "hypothesis", "safetensors"])
def test_importing_takes_the_core_alone(environment_variables, extra):
    program = f"import sys; sys.modules[{extra!r}] = None; import nbrl; [getattr(nbrl, name) for name in nbrl.__all__]"
    assert run_python(program, environment_variables) == ""


@pytest.mark.parametrize(("name", "module"), [("train", "gymnasium"), ("Agent", "numba")])
def test_what_is_not_installed_is_named(environment_variables, name, module):
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import nbrl\n"
        "try:\n"
        f"    nbrl.{name}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "print(nbrl.NumpyPolicy.__name__)\n"
    )
    sentence = f"nbrl.{name} needs {module}, which is not installed; nbrl.NumpyPolicy needs numpy alone"
    assert run_python(program, environment_variables) == f"{sentence}\nNumpyPolicy\n"


def test_importing_leaves_the_host_as_it_is(environment_variables):
    program = (
        "import logging, gymnasium, numba, signal, threading, warnings\n"
        "def state():\n"
        "    return (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), threading.active_count(),\n"
        "            list(warnings.filters), logging.getLogger().handlers, numba.config.CACHE_DIR)\n"
        "before = state()\n"
        "import nbrl\n"
        "[getattr(nbrl, name) for name in nbrl.__all__]\n"
        "print(state() == before)\n"
    )
    assert run_python(program, environment_variables) == "True\n"


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_NAMES = {"eval", "exec", "__import__", "allow_pickle"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_that_runs_data_as_code(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", None)}
            assert not names & FORBIDDEN_MODULES
        elif isinstance(node, ast.Name):
            assert node.id not in FORBIDDEN_NAMES
        elif isinstance(node, ast.keyword):
            assert node.arg not in FORBIDDEN_NAMES
        elif isinstance(node, ast.Attribute):
            assert not (node.attr == "load" and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy"))


# What belongs to the host: the command line, which is one, may use the first; nothing of ours the second.
OF_THE_HOST = {
    "import signal", "print", "sys.stdout", "sys.stderr", "logger.addHandler", "logger.setLevel",
    "logging.basicConfig",
}  # fmt: skip
OF_NOBODY_HERE = {
    "import subprocess", "import multiprocessing", "import random", "os.fork", "os.system", "os.chdir",
    "os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv",
    "np.seterr", "np.errstate", "warnings.simplefilter", "warnings.filterwarnings",
    *(f"np.random.{name}" for name in vars(np.random.RandomState)), "np.random.RandomState",
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_belongs_to_the_host_is_left_to_it(path):
    used = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            used |= {f"import {alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"import {node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Name | ast.Attribute):
            used.add(ast.unparse(node))
    own = {"import subprocess", "import signal"} if path.parent.name == "studies" else set()  # whose runs are processes
    own |= (
        {"np.random.RandomState"} if path.name == "deep_sea.py" else set()
    )  # an object of its own, with bsuite's stream
    own |= {"import signal", "signal.signal"} if path.name == "cluster.py" else set()  # what Ray took is given back
    used -= own
    assert not used & OF_NOBODY_HERE
    if path.name not in ("cli.py", "__main__.py"):
        assert not used & OF_THE_HOST
