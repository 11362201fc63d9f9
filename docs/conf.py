"""Sphinx settings: `make docs` builds the site into build/docs, with every warning an error."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import mmguard

project = "mmguard"
author = "The mmguard authors"
copyright = "The mmguard authors, Apache-2.0"
version = release = mmguard.__version__

extensions = [
    "cyclopts.ext.sphinx",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "mmguard"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
# Pictures that pages name in plain HTML, so that they follow the reader's colour scheme on GitHub too.
html_extra_path = ["report-dark.png", "report-light.png", "report-narrow.png"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fbf", "color-brand-content": "#1f5fbf"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
# Docstrings mark code by single backticks.
default_role = "code"
# Quotes and ellipses, but no dashes: options begin with two hyphens.
smartquotes_action = "qe"


# docutils 0.22 sets a subscript right below a letter that has an accent.
ACCENT = re.compile(
    r"<munderover>\s*(<m[io]>[^<]+</m[io]>)\s*(<m[io]>[^<]+</m[io]>)\s*(<mo [^>]*>[^<]+</mo>)\s*</munderover>"
)


def mathml(tex: str, displayed: bool = False) -> str:
    """Return a formula as MathML, which browsers render without a script."""
    return ACCENT.sub(r"<msub><mover accent='true'>\1\3</mover>\2</msub>", tex2mathml(tex, as_block=displayed))


def visit_math(self: Any, node: nodes.math) -> None:
    """Write an inline formula."""
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self: Any, node: nodes.math_block) -> None:
    """Write a displayed formula."""
    self.body.append(f'<div class="math">{mathml(node.astext(), displayed=True)}</div>')
    raise nodes.SkipNode


def tables_to_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn the Markdown tables of a docstring into reStructuredText, in place."""
    text: list[str] = []
    for line in lines:
        row = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if row is None:
            text.append(line)
        elif all(re.fullmatch(":?-+:?", cell) for cell in row):
            continue
        else:
            if not (text and text[-1].startswith("   ")):
                text += [".. list-table::", "   :header-rows: 1", ""]
            text += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    lines[:] = text


def setup(app: Sphinx) -> None:
    """Register what this site adds to Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", tables_to_rst)
