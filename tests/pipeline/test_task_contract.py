"""What every task and pipeline promises: names, size of run(), subsets with a text."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from lsst.pipe.base import Pipeline, PipelineTask

import skymill.tasks

FILES = sorted(
    m.name for m in pkgutil.iter_modules(skymill.tasks.__path__) if not m.name.startswith("_")
)
PIPELINES = sorted(Path(skymill.__path__[0], "pipelines").glob("*.yaml"))


def snake(label):
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", label).lower()


def task_of(name):
    module = importlib.import_module(f"skymill.tasks.{name}")
    tasks = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, PipelineTask) and v.__module__ == module.__name__
    ]
    assert len(tasks) == 1, f"{name}.py must hold one task"
    return tasks[0]


@pytest.mark.parametrize("name", FILES)
def test_file_class_and_label_are_one_name(name):
    task = task_of(name)
    assert snake(task._DefaultName) == name
    label = task._DefaultName
    assert task.__name__ == label[0].upper() + label[1:] + "Task"
    assert task.ConfigClass.__name__ == task.__name__.removesuffix("Task") + "Config"
    assert task.__doc__
    assert task.ConfigClass.__doc__


@pytest.mark.parametrize("name", FILES)
def test_run_is_short_and_does_no_input_or_output(name):
    source = Path(skymill.tasks.__path__[0], f"{name}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            body = [
                n
                for n in node.body
                if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
            ]
            assert body[-1].end_lineno - body[0].lineno + 1 <= 45
            calls = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
            through_butler = [c for c in calls if c.endswith((".get", ".put")) and "butler" in c]
            assert "open" not in calls
            assert not through_butler


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_pipelines_load_and_their_subsets_are_explained(path):
    pipeline = Pipeline.from_uri(str(path))
    graph = pipeline.to_graph()
    assert len(graph.tasks) > 0
    for label, subset in pipeline.subsets.items():
        assert subset, label
    for label in pipeline.task_labels:
        cls = graph.tasks[label].task_class
        assert graph.tasks[label].label == label
        assert cls.__module__.startswith("skymill.tasks.")
    names = re.findall(r"^  (\w+):\n    description:", path.read_text(), re.M)
    assert set(pipeline.subsets) <= set(names), "a subset without a description"
