"""Codes to what priors read: vocabulary, patterns, sequences, packing, export."""

from vqtok.layout.dropout import ConditionDropout
from vqtok.layout.export import EXPORTERS, ExportReport, export_sequences
from vqtok.layout.items import CodeItem, Stream
from vqtok.layout.join import join_rows
from vqtok.layout.packing import PACKINGS, PackedRow, attention_mask, pack
from vqtok.layout.patterns import PATTERNS, Pattern, build_pattern
from vqtok.layout.sequence import Encoded, SequenceLayout
from vqtok.layout.storage import Layout
from vqtok.layout.text import TextVocabulary
from vqtok.layout.vocabulary import VocabLayout

__all__ = [
    "EXPORTERS",
    "PACKINGS",
    "PATTERNS",
    "CodeItem",
    "ConditionDropout",
    "Encoded",
    "ExportReport",
    "Layout",
    "PackedRow",
    "Pattern",
    "SequenceLayout",
    "Stream",
    "TextVocabulary",
    "VocabLayout",
    "attention_mask",
    "build_pattern",
    "export_sequences",
    "join_rows",
    "pack",
]
