"""Everything vqtok raises on purpose; each error is also the builtin error it refines.

A message says what was wanted, what came, and what to do.
"""


class VqtokError(Exception):
    """Root of the family: `except VqtokError` catches every deliberate error of this package."""


class ConfigError(VqtokError, ValueError):
    """An option or a combination of options that cannot work."""


class ShapeError(VqtokError, ValueError):
    """A tensor with the wrong number of axes, the wrong width or the wrong dtype."""


class CodeRangeError(VqtokError, ValueError):
    """Codes outside [0, codebook_size), or too large for the dtype asked for."""


class LoadError(VqtokError, ValueError):
    """A folder, a bundled name or a Hub repository that cannot be loaded as a tokenizer."""


class FormatError(VqtokError, ValueError):
    """A file or folder that vqtok should have written, but that does not follow the format."""


class InputError(VqtokError, ValueError):
    """A bad image, sound, text or vector.

    `status` is the word that a tokenized dataset stores for such a row: "decode_error",
    "too_large", "too_short", "nonfinite", "empty".
    """

    def __init__(self, message: str, status: str = "decode_error"):
        super().__init__(message)
        self.status = status


class FingerprintError(VqtokError, ValueError):
    """Codes and tokenizer do not belong together."""


def raised_again(kind: str, message: str) -> VqtokError:
    """An error that another process told of, by the name of its class."""
    found = globals().get(kind)
    is_ours = isinstance(found, type) and issubclass(found, VqtokError)
    return (found if is_ours else VqtokError)(message)
