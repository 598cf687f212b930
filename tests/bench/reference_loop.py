"""The test loop of the CycleGAN repositories, written plainly; shares no code with cgpipe.

python reference_loop.py WEIGHTS NGF INPUT OUTPUT SUFFIX DEVICE
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image
from reference_networks import junyanz_resnet


def main(weights: str, ngf: str, source: str, target: str, suffix: str, device: str) -> None:
    """Opens, resizes to 256x256, translates and saves one picture after the other."""
    network = junyanz_resnet(ngf=int(ngf)).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.to(device)
    Path(target).mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(source).iterdir()):
        picture = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
        with torch.no_grad():
            y = network(x[None].to(device))[0].cpu()
        pixels = ((y.permute(1, 2, 0).numpy() + 1) / 2 * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save((Path(target) / path.name).with_suffix(suffix), quality=95)


if __name__ == "__main__":
    main(*sys.argv[1:])
