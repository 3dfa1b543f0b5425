"""The documentation site: `make docs`. Its source is the repository: pages and links are those of a git page."""

import re

from mdtnet import __version__

project = "mdtnet"
release = version = __version__
copyright = "the mdtnet authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "examples/*.md"]
exclude_patterns = ["docs/conf.py", "docs/templates/**", "docs/static/**"]
templates_path = ["templates"]

html_theme = "furo"
html_title = f"mdtnet {__version__}"
html_additional_pages = {"index": "index.html"}
html_show_sphinx = False
html_show_sourcelink = html_copy_source = False
html_static_path, html_css_files = ["static"], ["site.css"]
highlight_language = "text"  # of blocks that do not say theirs

myst_heading_anchors = 4
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
python_maximum_signature_line_length = 100

FIELDS = {"Args:": "param", "Returns:": "returns", "Raises:": "raises"}

CHAPTERS = {
    "Begin": "README get-started from-mmaction2 from-slowfast limits doctor troubleshooting",
    "Train and test": "data weights checkpoints protocols studies gpu decoding",
    "Use": "predict timeline live serve features pictures export speed scale",
    "Know": "python api method specification upgrade",
    "Data sets": "datasets/*",
    "Results": "results/README",
}
"""Chapter of the sidebar -> its pages."""


def contents(pages, caption=""):
    """A table of contents that only the sidebar shows."""
    return "\n".join(("\n```{toctree}", ":hidden:", ":glob:", f":caption: {caption}" * bool(caption), *pages, "```\n"))


def prepare(_app, page, source):
    """Figures that keep their intervals on their line; tables of contents on the pages that need one, which a git page
    would show as code."""
    source[0] = re.sub(r"(?<=\d) (±|\+-) (?=\d)", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", source[0])
    if page == root_doc:
        for caption, names in CHAPTERS.items():
            source[0] += contents([f"docs/{name}" for name in names.split()], caption)
        source[0] += contents(["examples/README", "CONTRIBUTING", "CHANGELOG", "SECURITY"], "Project")
    elif page == "docs/results/README":
        source[0] += contents(["2*", "*/results"])


def list_fields(_app, _what, _name, _found, _options, lines):
    """What stands below `Args:`, `Returns:` and `Raises:` as fields; any other line is left as it is."""
    field = ""
    for i, line in enumerate(lines):
        if line in FIELDS:
            field = FIELDS[line]
            lines[i] = ":returns:" if field == "returns" else ""
        elif field in ("param", "raises"):
            lines[i] = re.sub(r"^    (\w+): ", rf":{field} \1: ", line)


def skip_generated(_app, _what, name, found, skip, _options):
    """The `__init__` of a dataclass, which says again what its fields say."""
    return True if name == "__init__" and found.__code__.co_filename == "<string>" else skip


def setup(app):
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", list_fields)
