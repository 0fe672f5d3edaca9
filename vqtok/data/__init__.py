"""Datasets to codes on disk and back; a tokenizer is an object with `tokenize` and `detokenize`."""

from vqtok.lazy import on_first_use

_NAMES = {
    "CodesMap": "vqtok.data.mapped",
    "CodesStream": "vqtok.data.stream",
    "DecodeReport": "vqtok.data.decode",
    "EvaluationReport": "vqtok.data.meters",
    "Execution": "vqtok.data.executors",
    "Source": "vqtok.data.sources",
    "TokenizeReport": "vqtok.data.run",
    "decode_dataset": "vqtok.data.decode",
    "evaluate_dataset": "vqtok.data.evaluate",
    "load_codes": "vqtok.data.reader",
    "map_codes": "vqtok.data.mapped",
    "open_run": "vqtok.data.reader",
    "open_source": "vqtok.data.sources",
    "plan_dataset": "vqtok.data.status",
    "run_report": "vqtok.data.report",
    "run_status": "vqtok.data.status",
    "stored_tokenizer": "vqtok.data.decode",
    "tokenize_dataset": "vqtok.data.run",
    "verify_run": "vqtok.data.verify",
}

__all__ = list(_NAMES)
__getattr__ = on_first_use(__name__, _NAMES)
