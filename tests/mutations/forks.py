"""Run tests against changed copies of the package, without importing the libraries each time.

A child process imports every library the package needs, but not the package. For each order it
forks itself; the fork sees one copy of the package first on its path and runs pytest in-process.
"""

import ast
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",  # a fork cannot use a GPU that its parent has looked at
    "TOKENIZERS_PARALLELISM": "false",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
SECONDS = 300  # for one order, after which its fork is killed
# What the tests use, or what loads only when it is called.
EXTRA = ["scipy.stats", "hypothesis.strategies", "transformers.models.clip.modeling_clip"]


class Forks:
    """A process that answers orders (a directory that holds `rlhf/`, and tests) with exit codes."""

    def __enter__(self) -> Self:
        plain = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        self._child = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=plain | SETTINGS,
        )
        return self

    def run(self, directory: Path, tests: list[str]) -> tuple[int, str]:
        """pytest's exit code (negative: ended by a signal) and its output."""
        assert self._child.stdin and self._child.stdout
        print(json.dumps([str(directory), tests]), file=self._child.stdin, flush=True)
        return int(self._child.stdout.readline()), (directory / "output.txt").read_text()

    def __exit__(self, *error: object) -> None:
        assert self._child.stdin and self._child.stdout
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()


def serve() -> None:
    """Answer orders from standard input until it ends."""
    import pytest
    import torch

    torch.set_num_threads(1)  # a thread would not survive the fork
    for path in sorted((ROOT / "rlhf").rglob("*.py")):
        import_libraries(ast.parse(path.read_text()))
    for name in EXTRA:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    warm_up()
    assert "rlhf" not in sys.modules
    gc.freeze()  # a fork's collections leave alone what all forks share
    for line in sys.stdin:
        directory, tests = json.loads(line)
        child = os.fork()
        if not child:
            run_tests(pytest, Path(directory), tests)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # what libraries say as they are unloaded interests nobody


def warm_up() -> None:
    """Let transformers build the tables it builds on first use."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=1, vocab_size=8)
    with tempfile.TemporaryDirectory() as directory:
        transformers.LlamaModel(config).save_pretrained(directory)
        transformers.AutoModel.from_pretrained(directory)


def import_libraries(module: ast.Module) -> None:
    """Execute a module's own import statements, but for those of the package."""
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            statement = ast.unparse(node)
            if "rlhf" not in statement and "triton" not in statement:
                with contextlib.suppress(ImportError):
                    exec(statement, {})


def run_tests(pytest: Any, directory: Path, tests: list[str]) -> None:
    """End this process with pytest's exit code; what it prints goes to `output.txt`."""
    signal.alarm(SECONDS)
    code = 70
    try:
        output = os.open(directory / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.path.insert(0, str(directory))
        package = importlib.import_module("rlhf")
        assert Path(package.__file__ or "").is_relative_to(directory)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp"]
        code = pytest.main([*tests, *options, str(directory / "scratch")])
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
