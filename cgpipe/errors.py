"""The one exception tree of cgpipe.

Every error that a user can cause or meet derives from :class:`CgpipeError`. Its message is a sentence or two: what was
wrong, and what to do. The command line prints it once, after ``Error:``, and exits with :attr:`CgpipeError.exit_code`.
"""

from __future__ import annotations


class CgpipeError(Exception):
    """Base class: something that cgpipe cannot do. The message is for the user."""

    exit_code = 1


class UsageError(CgpipeError):
    """The options contradict each other, or one of them has an invalid value."""

    exit_code = 2


class MediaError(CgpipeError):
    """A picture or a video cannot be read or written."""


class MediaNotFoundError(MediaError):
    """A video does not exist."""

    exit_code = UsageError.exit_code


class BusyError(MediaError):
    """Another process is writing the same output."""


class UnsupportedFormatError(MediaError):
    """A picture format that is not supported, or needs an extra; the message says what to do."""


class ModelError(CgpipeError):
    """A model file is damaged, of an unknown format, or does not fit its architecture."""


class ModelNotFoundError(ModelError):
    """No model, or more than one, matches the request."""

    exit_code = UsageError.exit_code


class MissingDependencyError(CgpipeError):
    """An optional package is needed; the message names the extra to install."""


class DataError(CgpipeError):
    """A dataset is missing, empty, or has the wrong layout."""


class DataNotFoundError(DataError):
    """A dataset, or a list of pictures, does not exist."""

    exit_code = UsageError.exit_code


class TrainingError(CgpipeError):
    """A training run cannot start, cannot resume, or has failed."""


class CgpipeWarning(UserWarning):
    """A problem that does not stop the work."""


def reason_of(error: BaseException) -> str:
    """The reason of any exception, for the user."""
    if isinstance(error, CgpipeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Not enough memory."
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")
