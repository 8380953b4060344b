"""The import direction of the design, the public names, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nbrl

PACKAGE = Path(nbrl.__file__).parent

# Part by part: what of ours it may import. kernels <- nets <- optimisers <- methods <- trainer <- cli; the layer rows
# in nets.layers import nothing, so that the settings can name them.
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "nets.layers": set(),
    "nets": {"kernels", "nets.layers"},
    "optimisers": {"kernels", "nets"},
    "methods": {"kernels", "nets", "nets.layers", "optimisers", "envs"},
    "envs": {"kernels"},
    "config": {"nets.layers", "envs"},
    "metrics": {"config"},
    "plots": {"config"},
    "checkpoint": set(),
    "agent": {"kernels", "nets", "nets.layers", "checkpoint"},
    "evaluate": {"kernels", "agent", "envs", "config"},
    "learner": {
        "kernels", "nets", "nets.layers", "optimisers", "methods", "envs", "config", "checkpoint", "agent",
    },
    "trainer": {"kernels", "learner", "methods", "envs", "config", "metrics", "checkpoint", "agent"},
    "cli": {"nbrl", "config", "metrics", "checkpoint", "plots", "envs", "agent", "evaluate", "trainer"},
    "__main__": {"cli"},
}  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(module: str) -> str:
    """Return the part of the design that a module of ours, named without ``nbrl.``, belongs to."""
    return module if module in ALLOWED else module.split(".")[0]


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
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    own = part(module)
    others = {part(name) for name in imported(ast.parse(path.read_text()), module)}
    assert others - {own} <= ALLOWED[own]


def test_every_part_of_the_design_is_there():
    assert {part(".".join(path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES} == set(ALLOWED)


def test_public_names():
    assert nbrl.__all__ == [
        "Agent",
        "CheckpointError",
        "Config",
        "Conv",
        "Dense",
        "Evaluation",
        "NativeEnvironment",
        "Report",
        "Trainer",
        "configure",
        "evaluate",
        "train",
    ]
    assert all(hasattr(nbrl, name) for name in nbrl.__all__)


def run_python(program: str, variables: dict[str, str]) -> str:
    ended = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.parametrize("extra", ["ale_py", "mujoco", "matplotlib", "pytest", "hypothesis", "safetensors"])
def test_importing_takes_the_core_alone(environment_variables, extra):
    program = f"import sys; sys.modules[{extra!r}] = None; import nbrl; [getattr(nbrl, name) for name in nbrl.__all__]"
    assert run_python(program, environment_variables) == ""


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
