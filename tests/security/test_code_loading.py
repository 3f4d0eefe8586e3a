"""No line of the package can run what a file holds: every way to do so is looked for."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.imports import Sources, all_imports, package, package_sources

PICKLES = "pickle _pickle cPickle cloudpickle dill joblib shelve"
RUNNERS = "marshal runpy codeop imp torch.jit torch.hub torch.package torch.serialization"
MODULES = (*PICKLES.split(), *RUNNERS.split())
NAMES = """
    exec eval compile __import__ torch.load numpy.load np.load pandas.read_pickle pd.read_pickle
    yaml.load yaml.load_all yaml.full_load yaml.full_load_all yaml.unsafe_load yaml.unsafe_load_all
    hydra.utils.instantiate hydra.utils.call hydra.utils.get_class hydra.utils.get_method
    hydra.utils.get_object
"""
CALLS = NAMES.split()
LIBRARIES = (
    "torch",
    "numpy",
    "yaml",
    "pandas",
    "hydra",
    "builtins",
)
KEYWORDS = {  # what each has to be, wherever it is given
    "trust_remote_code": "False",
    "use_safetensors": "True",
    "weights_only": "True",
    "allow_pickle": "False",
}
METHODS = ("exec_module", "load_module", "read_pickle", "to_pickle")
# The user's own scorer is Python: the one file that is run, because it was named to be run.
ALLOWED = {"rlhf.rewards.external.python_function: exec_module"}


def faults(sources: Sources) -> list[str]:
    """Return every place of the sources that could run what a file holds."""
    imported = all_imports(sources)
    found = [f"{module}: imports {name}" for module, name in imported if _is_banned(name)]
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            found += [f"{module}: {fault}" for fault in _faults_of(node)]
    return [fault for fault in found if fault not in ALLOWED]


def _is_banned(name: str) -> bool:
    return name.removeprefix("builtins.") in CALLS or any(
        name == x or name.startswith(f"{x}.") for x in MODULES
    )


def _faults_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.alias) and node.asname and node.asname not in ("np", "pd"):
        yield from (f"renames {name}" for name in LIBRARIES if name == node.name)
    if isinstance(node, ast.Attribute) and _is_banned(name := ast.unparse(node)):
        yield name
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        yield node.attr
    if isinstance(node, ast.Name) and node.id in CALLS:
        yield node.id
    if isinstance(node, ast.Call):
        yield from _call_faults(node)


def _call_faults(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    texts = [str(x.value) for x in call.args if isinstance(x, ast.Constant)]
    if name.endswith("import_module") and any(map(_is_banned, texts)):
        yield f"{name} of {texts[0]}"
    if name == "getattr" and {"load", "exec", "eval", "__import__"} & {*texts}:
        yield f"getattr of {texts[-1]}"
    for keyword in call.keywords:
        wanted = KEYWORDS.get(str(keyword.arg))
        if wanted and ast.unparse(keyword.value) != wanted:
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def test_nothing_in_the_package_runs_what_a_file_holds() -> None:
    assert faults(package_sources()) == []


@pytest.mark.parametrize(
    "source",
    [
        "exec(text)",
        "eval(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import pickle",
        "from pickle import loads",
        "import dill",
        "import joblib",
        "import marshal",
        "import runpy",
        "from importlib import import_module\nimport_module('pickle')",
        "import importlib\nimportlib.import_module('torch.hub')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load",
        "import torch as t\nt.load(path)",
        "import torch\ntorch.jit.load(path)",
        "from torch import jit",
        "import torch\ntorch.hub.load(repo, name)",
        "import torch\ntorch.package.PackageImporter(path)",
        "import torch\ntorch.serialization.load(path)",
        "import torch\nread = torch.load",
        "import torch\ngetattr(torch, 'load')(path)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.full_load(text)",
        "from yaml import unsafe_load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import pandas\npandas.read_pickle(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=trusted)",
        "AutoModel.from_pretrained(path, use_safetensors=False)",
        "from hydra.utils import instantiate",
        "spec.loader.exec_module(module)",
        "from builtins import exec",
        "import builtins as b\nb.exec(text)",
    ],
)
def test_each_way_is_found(source: str) -> None:
    assert faults(package(checkpoint=source))


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.load(file)",
        "import yaml\nyaml.safe_load(text)",
        "model.eval()",
        "import re\nre.compile(text)",
        "import torch\ntorch.compile(model)",
        "from safetensors.torch import load",
        "AutoModel.from_pretrained(path, trust_remote_code=False, use_safetensors=True)",
        "from importlib import import_module\nimport_module(f'rlhf.commands.{name}')",
    ],
)
def test_what_only_reads_is_allowed(source: str) -> None:
    assert faults(package(checkpoint=source)) == []
