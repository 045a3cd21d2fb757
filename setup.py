"""Metadata and extras. `fastvarcon/kernels` and `fastvarcon/data_prep` are links to the top-level folders.

A checkout on Windows, exFAT or a cloud drive has text files in the place of the links: packages are taken from where
they are.
"""

from pathlib import Path

from setuptools import find_packages, setup

LINUX = "; platform_system == 'Linux'"
DOCS = ["mkdocs-material>=9.5"]
ONNX = ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"]

LINKED = ("kernels", "data_prep")
"""Top-level folders that are packages in `fastvarcon`."""
FOLDERS = {
    f"fastvarcon.{package}": package.replace(".", "/")
    for top in LINKED
    for package in find_packages(include=[top, f"{top}.*"])
}

setup(
    name="fastvarcon",
    version="0.1.0",
    description="Train image encoders with supervised contrastive losses, VarCon first, as fast as the hardware allows",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)],
    packages=sorted({*find_packages(include=["fastvarcon", "fastvarcon.*"]), *FOLDERS}),
    package_dir={"fastvarcon": "fastvarcon", **FOLDERS},
    package_data={"fastvarcon": ["py.typed"]},
    install_requires=[
        "torch>=2.10",
        "torchvision>=0.25",
        f"triton>=3.6{LINUX}",
        "accelerate>=1.10",
        "numba>=0.60",
        "numpy>=1.26",
        "pillow>=11.2",  # the first that heeds an orientation in the XMP block of a JPEG
        "simplejpeg>=1.8",  # libjpeg-turbo in a wheel: decodes into our buffers without the GIL
        "tyro>=1.0.17",
        "rich>=13",
        "scikit-learn>=1.4",
        "scipy>=1.10",
        "matplotlib>=3.8",
        "tensorboard>=2.16",
        "safetensors>=0.4",
        "filelock>=3.12",
    ],
    extras_require={
        "dali": [f"nvidia-dali-cuda120{LINUX}"],
        "ffcv": [f"ffcv>=1.0{LINUX}", f"setuptools{LINUX}"],  # ffcv imports distutils, which Python 3.12 dropped
        "parquet": ["pyarrow>=18"],
        "timm": ["timm>=1.0"],
        "umap": ["umap-learn>=0.5.6"],
        "onnx": ONNX,
        "docs": DOCS,
        "dev": [
            *DOCS,
            *ONNX,
            "timm>=1.0",
            "umap-learn>=0.5.6",
            "pyarrow>=18",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pytorch-metric-learning>=2.5",
            "hypothesis>=6",
            "ruff==0.17.6",  # pinned, as is mypy: a release of a linter must not turn a green tree red
            "mypy==2.4.1",
            "setuptools>=77",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["fastvarcon = fastvarcon.__main__:main"]},
)
