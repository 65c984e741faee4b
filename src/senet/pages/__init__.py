"""HTML pages without requests: style, script and data are inside."""

from senet.pages.assembling import assemble, script_json, thumbnail
from senet.pages.folder import check_report_folder, report_folder

__all__ = ["assemble", "check_report_folder", "report_folder", "script_json", "thumbnail"]
