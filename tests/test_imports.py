"""No import cycle anywhere; the contracts between packages are import-linter's, in pyproject.toml."""

import graphlib

import grimp

PACKAGES = ("commands", "cluster", "data_shards", "evaluation", "trainers", "tuning")
STILL_OPEN = {
    "cluster.settings": {"cluster.refusals"},
    "evaluation.report.report": {f"evaluation.report.{name}" for name in ("figures", "html", "latex", "markdown")},
}
"""Imports that close a cycle, to be resolved."""


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    imports = {
        module: graph.find_modules_directly_imported_by(module) - STILL_OPEN.get(module, set())
        for module in graph.modules
    }
    graphlib.TopologicalSorter(imports).prepare()  # a CycleError names the cycle
