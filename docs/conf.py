"""The documentation site: `make docs`. Its source is the repository: pages and links are those of a git page."""

import re

from mdtnet import __version__

project = "mdtnet"
release = version = __version__
copyright = "the mdtnet authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = ["docs/conf.py", "docs/templates/**"]
templates_path = ["templates"]

html_theme = "furo"
html_title = f"mdtnet {__version__}"
html_additional_pages = {"index": "index.html"}
html_show_sphinx = False

myst_heading_anchors = 4
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
python_maximum_signature_line_length = 100

FIELDS = {"Args:": "param", "Returns:": "returns", "Raises:": "raises"}

CONTENTS = """

```{toctree}
:hidden:
:caption: Begin
docs/README
docs/get-started
docs/from-mmaction2
docs/from-slowfast
docs/limits
```

```{toctree}
:hidden:
:glob:
:caption: Pages by task
docs/[a-z]*
```

```{toctree}
:hidden:
:glob:
:caption: Data sets
docs/datasets/*
```

```{toctree}
:hidden:
:glob:
:caption: Results
docs/results/README
docs/results/2*
docs/results/*/*
```

```{toctree}
:hidden:
:caption: Project
CONTRIBUTING
CHANGELOG
SECURITY
```
"""


def add_contents(_app, page, source):
    """A table of contents on the first page, where a git page would show it as code."""
    if page == root_doc:
        source[0] += CONTENTS


def list_fields(_app, _what, _name, _found, _options, lines):
    """What stands below `Args:`, `Returns:` and `Raises:` as fields; any other line is left as it is."""
    field = ""
    for i, line in enumerate(lines):
        if line in FIELDS:
            field = FIELDS[line]
            lines[i] = ":returns:" if field == "returns" else ""
        elif field in ("param", "raises"):
            lines[i] = re.sub(r"^    (\w+): ", rf":{field} \1: ", line)


def setup(app):
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", list_fields)
