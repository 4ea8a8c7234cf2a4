"""YAML without its surprises: aliases and duplicate keys are refused, and words are read by YAML 1.2's core schema."""

import re
from functools import cache
from typing import Any

_PLAIN = {
    "null": (r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(true|false|True|False)$", list("tTfF")),
    "int": (r"^[-+]?(0|[1-9][\d_]*)$", list("-+0123456789")),
    "float": (r"^[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$", list("-+.0123456789")),
}
"""What an unquoted word of a preset may be besides text, and how it begins: YAML 1.2's core schema, in decimal, and
66_000."""


@cache
def strict_loader() -> type:
    """PyYAML's safe loader without the surprises it has for numbers, booleans, dates, aliases and repeated keys."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed: write the value again")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if not isinstance(key, str):
                    raise yaml.YAMLError(f"key {key!r} is not a string{node.start_mark}")
                if keys.count(key) > 1:
                    raise yaml.YAMLError(f"duplicate key {key!r}{node.start_mark}")
            return super().construct_mapping(node, deep=deep)

    # YAML 1.1 reads 1e-3 as a string, no as False, 1:30 as 90, 010 as 8, 2024-01-01 as a date; YAML 1.2 does not.
    Loader.yaml_implicit_resolvers = {}
    for name, (pattern, first) in _PLAIN.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(pattern), first)
    kept = [f"tag:yaml.org,2002:{name}" for name in (*_PLAIN, "str", "seq", "map")]  # what has a form in JSON
    Loader.yaml_constructors = {tag: Loader.yaml_constructors[tag] for tag in kept} | {None: Loader.construct_undefined}
    return Loader
