"""How Sphinx makes the site; `tools/build_site.py` writes the pages and starts it: `make site`."""

project = "Stable Diffusion, step by step"
author = "The Stable Diffusion, step by step authors"
copyright = f"{author}. Text CC BY 4.0, code Apache-2.0"
html_title = project

# The second brings MathJax, so that no other host is asked for it.
extensions = ["myst_parser", "sphinx-mathjax-offline"]
myst_enable_extensions = ["dollarmath", "amsmath"]
mathjax3_config = {"options": {"enableMenu": False}}  # else every formula is one more stop of the Tab key
myst_heading_anchors = 3

html_theme = "furo"
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
html_static_path = ["static"]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_copy_source = html_show_sourcelink = False
html_use_index = False
# The type and the blue of the course's figures, and for dark pages a blue that can be read there.
FONTS = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", "DejaVu Sans", sans-serif'
html_theme_options = {
    "light_css_variables": {
        "font-stack": FONTS,
        "color-brand-primary": "#0B5FE3",
        "color-brand-content": "#0B5FE3",
        "color-background-secondary": "#F3F5F8",
    },
    "dark_css_variables": {"color-brand-primary": "#7FB0FF", "color-brand-content": "#7FB0FF"},
    "top_of_page_buttons": [],
}
