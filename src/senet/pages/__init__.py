"""HTML pages without requests: style, script and data are inside."""

from senet.pages.assembling import assemble, in_script, thumbnail
from senet.pages.folder import check_report_folder, report_folder

__all__ = ["assemble", "check_report_folder", "in_script", "report_folder", "thumbnail"]
