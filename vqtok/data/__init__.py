"""Datasets to codes on disk and back; a tokenizer is an object with `tokenize` and `detokenize`."""

from vqtok.data.decode import DecodeReport, decode_dataset, stored_tokenizer
from vqtok.data.evaluate import EvaluationReport, evaluate_dataset
from vqtok.data.reader import load_codes, open_run
from vqtok.data.run import TokenizeReport, tokenize_dataset
from vqtok.data.sources import Source, open_source

__all__ = [
    "DecodeReport",
    "EvaluationReport",
    "Source",
    "TokenizeReport",
    "decode_dataset",
    "evaluate_dataset",
    "load_codes",
    "open_run",
    "open_source",
    "stored_tokenizer",
    "tokenize_dataset",
]
