"""The report of a study: a self-contained HTML page with inline SVG pictures, the model card, several studies side by side, and tables as text."""

from metabayfl.report.page import report_page
from metabayfl.report.sections import gathered
from metabayfl.report.table import comparison_table
from metabayfl.report.writing import write_comparison, write_report

__all__ = ["comparison_table", "gathered", "report_page", "write_comparison", "write_report"]
