"""Reports of an evaluation as files: a page, JSON and CSV."""

from senet.reports.classification import report_classification
from senet.reports.dense import report_dense
from senet.reports.multi_label import report_multi_label
from senet.reports.writing import check_report

__all__ = ["check_report", "report_classification", "report_dense", "report_multi_label"]
