"""A plain OpenCV loop around a generator: reads, runs, writes, one frame after the other, without sound.

python opencv_loop.py MODEL INPUT OUTPUT HEIGHT WIDTH DEVICE, the size being that at which the network works
"""

from __future__ import annotations

import sys
import time

import cv2
import torch

from cgpipe.models import load_any


def main(model: str, source: str, target: str, height: str, width: str, device: str) -> None:
    """Prints how many frames it wrote and the seconds that they took, without the start."""
    network = load_any(model).generator.to(device)
    reader = cv2.VideoCapture(source)
    rate = reader.get(cv2.CAP_PROP_FPS)
    size = int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(target, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    count, started = 0, time.perf_counter()
    while True:
        more, frame = reader.read()
        if not more:
            break
        seen = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (int(width), int(height)))
        x = torch.from_numpy(seen).permute(2, 0, 1)[None].float().to(device) / 127.5 - 1
        with torch.no_grad():
            y = network(x)
        pixels = ((y[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        writer.write(cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), size))
        count += 1
    writer.release()
    print(count, time.perf_counter() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
