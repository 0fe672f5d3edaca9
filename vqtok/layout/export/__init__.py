"""Sequences and codes to the files that prior trainers read; one file a format."""

from vqtok.layout.export.export import EXPORTERS, ExportReport, export_codes, export_sequences

__all__ = ["EXPORTERS", "ExportReport", "export_codes", "export_sequences"]
