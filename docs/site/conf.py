"""Sphinx's settings for the site: `python docs/site.py` stages the pages and builds it."""

from monet_edge import DISCLAIMER, __version__

project = "monet-edge"
author = "The monet-edge authors"
version = release = __version__
copyright = f"{author}. {DISCLAIMER}"  # at the foot of every page
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["files/**"]  # sources that pages link to: copied as they are, after the build
html_theme = "furo"
html_title = "monet-edge"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": "files/{{path}}"}  # the last: sources, copied along
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_display_short_literal_types = True
