"""A front as people look at it: a table in the terminal, a page, a picture, and JSON to look again."""

from hwsparse.report.front import FrontPoint, FrontReport, parse_report, read_report, write_report
from hwsparse.report.html import front_html
from hwsparse.report.plot import front_png
from hwsparse.report.table import front_table

__all__ = [
    "FrontPoint",
    "FrontReport",
    "front_html",
    "front_png",
    "front_table",
    "parse_report",
    "read_report",
    "write_report",
]
