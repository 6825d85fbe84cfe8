"""A hook of mkdocs that makes the page notebook.html of the executed notebook notebook.ipynb. Uses nothing but JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOK = Path(__file__).resolve().parent / "notebook.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the notebook by a page of Markdown."""
    found = files.get_file_from_path(NOTEBOOK.name)
    if found is not None:
        files.remove(found)
    files.append(File.generated(config, f"{NOTEBOOK.stem}.md", content=page(json.loads(NOTEBOOK.read_text()))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the notebook lead to its page."""
    return markdown.replace(f"]({NOTEBOOK.name})", f"]({NOTEBOOK.stem}.md)")


def page(notebook: Mapping[str, Any]) -> str:
    """The cells of a notebook and their stored outputs as Markdown."""
    return "\n\n".join(block for cell in notebook["cells"] for block in _blocks(cell)) + "\n"


def _blocks(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "text/html" in data:
            yield f'<div class="output">{"".join(data["text/html"])}</div>'
        else:
            yield f'<div class="output"><pre>{escape("".join(data.get("text/plain", output.get("text", ""))))}</pre></div>'
