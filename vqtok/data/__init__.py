"""Datasets to codes on disk and back; a tokenizer is an object with `tokenize` and `detokenize`."""

from vqtok.data.decode import DecodeReport, decode_dataset, stored_tokenizer
from vqtok.data.evaluate import evaluate_dataset
from vqtok.data.executors import Execution
from vqtok.data.mapped import CodesMap, map_codes
from vqtok.data.meters import EvaluationReport
from vqtok.data.reader import load_codes, open_run
from vqtok.data.report import run_report
from vqtok.data.run import TokenizeReport, tokenize_dataset
from vqtok.data.sources import Source, open_source
from vqtok.data.status import plan_dataset, run_status
from vqtok.data.stream import CodesStream
from vqtok.data.verify import verify_run

__all__ = [
    "CodesMap",
    "CodesStream",
    "DecodeReport",
    "EvaluationReport",
    "Execution",
    "Source",
    "TokenizeReport",
    "decode_dataset",
    "evaluate_dataset",
    "load_codes",
    "map_codes",
    "open_run",
    "open_source",
    "plan_dataset",
    "run_report",
    "run_status",
    "stored_tokenizer",
    "tokenize_dataset",
    "verify_run",
]
