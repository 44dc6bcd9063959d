"""How Sphinx makes the book. Everything that a page needs lies beside it: no page asks another host for anything."""

from importlib.metadata import files

project = html_title = "confitlib"
author, copyright = "the authors of confitlib", "the authors of confitlib, MIT licence"
language = "en"

extensions = ["myst_nb"]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
myst_heading_anchors = 4  # links to headings work as on code-hosting sites
nb_execution_mode = "off"  # the notebooks come executed
nb_merge_streams = True
nb_code_prompt_show = nb_code_prompt_hide = "{type} of this cell"

html_theme = "sphinx_book_theme"
html_theme_options = {
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "use_download_button": False,
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands above the contents
}
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_copy_source = html_show_sourcelink = False

# One file of MathJax, which draws formulas as SVG and so needs no fonts.
mathjax_path = "tex-svg.js"
html_static_path = [
    "static",
    *(str(file.locate()) for file in files("sphinx-mathjax-offline") or [] if file.name == mathjax_path),
]
html_css_files = ["book.css"]
