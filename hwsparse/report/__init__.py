"""A front to look at: in the terminal, in a browser, in a document, and again later.

    front.py    what is shown, and its JSON (comparison.py: what makes its rows comparable)
    audit.py    audit: what a comparison lacks
    view.py     what a picture shows, whatever draws it
    words.py    figures and plans in words; terms.py: the terms of a comparison
    table.py    front_table: for the terminal
    choices.py  what each layer's choices take and harm
    html.py     front_html: one file for a browser (figure.py makes its picture)
    plot.py     front_png: a picture for a document
    files.py    files written whole or not at all

Who draws imports the module that does; the names below need no drawing package.
"""

from hwsparse.report.comparison import Budget, Ceiling, Comparison, Method
from hwsparse.report.front import ArtifactPlace, FrontPoint, FrontReport, parse_report, read_report, write_report

__all__ = [
    "ArtifactPlace",
    "Budget",
    "Ceiling",
    "Comparison",
    "FrontPoint",
    "FrontReport",
    "Method",
    "parse_report",
    "read_report",
    "write_report",
]
