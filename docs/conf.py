"""How `make site` builds the site: Sphinx reads the Markdown pages, and fails on a bad link.

Everything that the site needs is in it: no page loads anything from elsewhere.
"""

project = "ledger"
extensions = ["myst_parser"]
myst_heading_anchors = 4  # links to headings, as GitHub makes their names
html_theme = "furo"
html_title = "ledger"
exclude_patterns = ["images"]
suppress_warnings = ["misc.highlighting_failure"]
