"""How large the library is and how it is cut, beside published libraries: `python -m benchmarks.size`."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.common import arguments, report

LIBRARY = Path(__file__).parents[1] / "confitlib"
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SMALL = 40  # code lines below which a module is small
PEERS = [  # the same count of other projects, at the versions of November 2026
    ("official ConFit-v2", 54, 12_973, 408, 18, 73, 6.0),
    ("ranx", 93, 4_171, 335, 7, 21, 3.5),
    ("nanochat", 29, 4_257, 205, 8, 39, 18.7),
    ("BEIR", 52, 4_097, 250, 8, 28, 3.1),
]


def measure(files: list[Path]) -> dict[str, Any]:
    """Figures of some modules: lines of code without blank lines, comments and docstrings, and how they are cut."""
    counts, bodies, comments = {}, [], 0
    for file in files:
        source = file.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        nodes = list(ast.walk(ast.parse(source)))
        # 1. lines that hold code: those of every token, less those of docstrings
        spans = [range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in LAYOUT]
        code = {line for span in spans for line in span}
        for node in nodes:
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
                code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        # 2. lines of each function's body, lines of comments
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        bodies += [len(code & set(range(one.body[0].lineno, (one.end_lineno or 0) + 1))) for one in functions]
        comments += sum(line.lstrip().startswith("#") for line in source.splitlines())
        counts[file] = len(code)
    lines, small = sum(counts.values()), [file for file, count in counts.items() if count < SMALL]
    return {
        "modules": len(files),
        "small": sum(file.name != "__init__.py" for file in small),
        "lines": lines,
        "functions": len(bodies),
        "median": median(bodies),
        "p90": quantiles(bodies, n=10)[-1],
        "max": max(bodies),
        "comments %": round(100 * comments / lines, 1),
    }


def library() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of each package, top modules among them, and those of the whole library."""
    packages: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(LIBRARY.rglob("*.py")):
        parts = file.relative_to(LIBRARY).parts
        packages[parts[0] if len(parts) > 1 else "(top)"].append(file)
    rows = [{"package": name, **measure(files)} for name, files in packages.items()]
    return rows, measure([file for files in packages.values() for file in files])


def main() -> None:
    """Print the tables."""
    given = arguments(__doc__)
    rows, whole = library()
    names = ("package", "modules", "lines", "functions", "median", "p90", "comments %")
    peers = [dict.fromkeys(rows[0], "") | dict(zip(names, peer, strict=True)) for peer in PEERS]
    summary = {name: value for name, value in whole.items() if name != "comments %"}
    report("size", [*rows, {"package": "confitlib", **whole}, *peers], summary, {}, given.json)


if __name__ == "__main__":
    main()
