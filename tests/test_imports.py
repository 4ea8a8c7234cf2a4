"""No import cycle anywhere; the contracts between packages are import-linter's, in pyproject.toml."""

import graphlib

import grimp

PACKAGES = ("commands", "cluster", "data_shards", "evaluation", "trainers", "tuning")


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    in_order = list(graphlib.TopologicalSorter(imports).static_order())  # a CycleError names the cycle
    assert set(in_order) >= graph.modules
