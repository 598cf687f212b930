"""``python -m cgpipe.service.video_worker``: translates one video, and reports progress as JSON lines.

It reads one line of JSON from standard input, and exits at once when that is closed, since the service has ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
import warnings

from cgpipe.errors import CgpipeError, CgpipeWarning, MediaError

TELL_SECONDS = 0.2
"""Seconds between progress reports."""


def main() -> None:
    """Translates the video that standard input names."""
    asked = json.loads(sys.stdin.readline())
    warnings.simplefilter("ignore", CgpipeWarning)  # the report has them
    threading.Thread(target=_end_with_service, daemon=True).start()
    try:
        _tell(report=_translate(**asked))
    except CgpipeError as error:
        _tell(reason=str(error))
    except Exception:
        traceback.print_exc()
        _tell(reason="It could not be translated.")


def _translate(input: str, output: str, pixels: int, options: dict[str, object]) -> dict[str, object]:
    from cgpipe.jobs.video import translate_video
    from cgpipe.media.video.opening import open_source

    with open_source(input) as source:
        if source.info.width * source.info.height > pixels:
            raise MediaError(f"Its frames have more than {pixels / 1e6:g} megapixels: reduce it first.")
    frames, told = 0, 0.0

    def count(more: int) -> None:
        nonlocal frames, told
        frames += more
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            _tell(frames=frames)

    report = translate_video(
        input, output, progress=False, on_start=lambda _, total: _tell(total=total), on_frames=count, **options
    )
    _tell(frames=report.frames)
    return report.to_json()


def _tell(**words: object) -> None:
    print(json.dumps(words), flush=True)


def _end_with_service() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
