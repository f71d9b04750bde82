"""The report of a study: a self-contained HTML page with inline SVG pictures, and the comparison table as text."""

from metabayfl.report.page import report_page, write_report
from metabayfl.report.table import comparison_table

__all__ = ["comparison_table", "report_page", "write_report"]
