"""The one exception tree of cgpipe.

Every error that a user can cause or meet derives from :class:`CgpipeError`. Its message says what was wrong and
what to do about it; the command line prints it once, after ``Error:``, and exits with :attr:`CgpipeError.exit_code`.
"""

from __future__ import annotations


class CgpipeError(Exception):
    """Something cgpipe cannot do, said in words for the person who asked for it."""

    exit_code = 1


class UsageError(CgpipeError):
    """The options contradict one another, or one of them has a value that cannot be used."""

    exit_code = 2


class MediaError(CgpipeError):
    """A picture or a video cannot be read or written."""


class MediaNotFoundError(MediaError):
    """A video is not where it was said to be."""

    exit_code = UsageError.exit_code


class UnsupportedFormatError(MediaError):
    """A picture of a format that is not read here, or not without an extra; the message says what to do."""


class ModelError(CgpipeError):
    """A model file is damaged, of an unknown format, or does not fit its architecture."""


class ModelNotFoundError(ModelError):
    """No model, or more than one, answers to what was asked for."""

    exit_code = UsageError.exit_code


class MissingDependencyError(CgpipeError):
    """An optional package is needed; the message names the extra to install."""


class DataError(CgpipeError):
    """A dataset is missing, empty, or not laid out as it must be."""


class DataNotFoundError(DataError):
    """A dataset, or a list of pictures, is not where it was said to be."""

    exit_code = UsageError.exit_code


class TrainingError(CgpipeError):
    """A training run cannot start, cannot resume, or has gone wrong."""


class CgpipeWarning(UserWarning):
    """Something that does not stop the work but that the user should know."""


def reason_of(error: BaseException) -> str:
    """What went wrong, in words for the user, whatever was raised."""
    if isinstance(error, CgpipeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")
