"""A window with what a camera sees, before and after."""

from __future__ import annotations

import gc
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cgpipe.errors import CgpipeError

if TYPE_CHECKING:
    from cgpipe.media.frames import Pixels

SHARE = 0.8
"""Of the screen that both pictures together take, at most."""


class NoWindowError(CgpipeError):
    """There is nothing to open a window on, or with."""


class Window:
    """A window, through Tk. It is drawn by the thread that made it, and answers while :meth:`show` is called.

    Args:
        title: of the window.

    Raises:
        NoWindowError: there is no display, or Python has no Tk.
    """

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError as error:
            raise NoWindowError("A window needs Tk, which this Python lacks: install python3-tk.") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise NoWindowError(f"No window can be opened: {error}.") from error
        self._root.title(title)
        self._is_open = True
        self._shown: object = None
        self._root.protocol("WM_DELETE_WINDOW", self._end)
        for key in ("<Escape>", "q"):
            self._root.bind(key, self._end)
        width, height = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        self._half = int(SHARE * width / 2), int(SHARE * height)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._root.destroy()
        # Tk aborts the program when another thread, such as a decoder's, collects what is left of a window.
        del self._root, self._label, self._shown
        gc.collect()

    def _end(self, _: Any = None) -> None:
        self._is_open = False
        self._root.withdraw()

    def show(self, before: Pixels, after: Pixels) -> bool:
        """Shows a frame beside its translation.

        Returns:
            Whether the window is open: closing it, Escape and q end the recording.
        """
        if self._is_open:
            from PIL import Image, ImageOps, ImageTk

            from cgpipe.cli.pictures import as_image, in_a_row

            pair = [
                ImageOps.contain(as_image(pixels), self._half, Image.Resampling.BILINEAR) for pixels in (before, after)
            ]
            self._shown = ImageTk.PhotoImage(in_a_row(pair), master=self._root)  # which Tk does not hold
            self._label.configure(image=self._shown)
            self._root.update()
        return self._is_open
