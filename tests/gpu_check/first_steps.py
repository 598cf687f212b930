"""What the first picture in a new process waits for, one thing after the other; prints seconds as JSON.

python first_steps.py MODEL [DEVICE]
"""

from __future__ import annotations

import json
import sys
import time

from cgpipe.bytecode import keep_bytecode

keep_bytecode()
last = time.perf_counter()
steps: dict[str, float] = {}


def ended(step: str) -> None:
    global last
    if "torch" in sys.modules and device == "cuda":
        sys.modules["torch"].cuda.synchronize()
    now = time.perf_counter()
    steps[step], last = round(now - last, 3), now


device = sys.argv[2] if len(sys.argv) > 2 else "cuda"

if True:  # each import is a step
    import torch

    ended("import torch")
    torch.zeros(1, device=device)
    ended("a tensor there")
    import cgpipe
    from cgpipe.engine.between import can_fuse, prepare_kernels
    from cgpipe.engine.translator import Translator
    from cgpipe.models import load_any

    ended("import cgpipe")
model = load_any(sys.argv[1])
ended("read the model")
x = torch.zeros(1, 64, 64, 64, device=device).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
ended("a cast")
torch.nn.Conv2d(64, 64, 3).to(device, torch.bfloat16)(x)
ended("a convolution")
if device == "cuda":
    import triton  # noqa: F401

    ended("import triton")
    prepare_kernels(torch.device("cuda"))
    can_fuse(torch.device("cuda"))
    ended("a kernel of Triton")
translate = Translator(model, device=device, size="full")
ended("a translator")
batch = cgpipe.Batch(pixels=torch.zeros(1, 256, 256, 3, dtype=torch.uint8), origins=(None,))
for name in ("first picture", "second", "third"):
    translate.translate(batch)
    ended(name)
print(json.dumps(steps))
