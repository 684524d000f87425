import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Read as text: a build has no need to import the package.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "fastsquid/__init__.py").read_text(encoding="utf-8"), re.M)[1]
# The address of the repository, once it has one. A package index then shows README's pictures and pages from there.
REPOSITORY = None


def long_description() -> str:
    """Return README for a package index, which has neither the pictures nor the pages that it links to.

    With an address their links become absolute. Without one each link is its text alone, a picture is a note of where
    it is, and the first paragraph says so.
    """
    text = (HERE / "README.md").read_text(encoding="utf-8")
    relative = r"\((?!https?://|#)([^)\s]+)\)"
    if REPOSITORY:
        text = re.sub(r"(!\[[^\]]*\])" + relative, rf"\1({REPOSITORY}/raw/main/\2)", text)
        return re.sub(r"(\[[^\]]*\])" + relative, rf"\1({REPOSITORY}/blob/main/\2)", text)
    text = re.sub(r"!\[([^\]]*)\]" + relative, r"[Picture `\2`: \1]", text)
    text = re.sub(r"\[([^\]]*)\]" + relative, r"\1", text)
    note = "The pictures and pages that this text names are in the source distribution, in `docs/`.\n\n"
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n{note}{rest}"


setup(
    name="fastsquid",
    version=VERSION,
    author="The fastsquid authors",
    description="Unsupervised anomaly detection in chest X-rays: SQUID and SimSID, right, reproducible and fast",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    project_urls={"Source": REPOSITORY} if REPOSITORY else {},
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["fastsquid", "fastsquid.*"]), "fastsquid.kernels"],
    # The top-level import name `kernels` belongs to another package.
    package_dir={"fastsquid": "fastsquid", "fastsquid.kernels": "kernels"},
    package_data={
        "fastsquid": ["py.typed"],
        "fastsquid.reporting": ["report.*"],
        "fastsquid.models": [
            "README.md",
            *(f"*/*.{kind}" for kind in ("json", "jsonl", "csv", "safetensors")),
            "*/checkpoint-*/*",
        ],
    },
    entry_points={"console_scripts": ["fastsquid = fastsquid.__main__:console"]},
    install_requires=[
        "torch>=2.8",
        "numpy>=1.26",
        "scikit-learn>=1.6",
        "scipy>=1.11",
        "threadpoolctl>=3.1",
        "einops>=0.8",
        "pillow>=10.3",
        "matplotlib>=3.8",
        "safetensors>=0.4.3",
        "tqdm>=4.66",
    ],
    extras_require={
        # moto is an S3 server on this machine
        "test": ["pytest>=8", "pytest-benchmark>=4", "pytest-xdist>=3.8", "selenium>=4.20", "moto[server,s3]>=5"],
        # gdcm decodes JPEG Lossless and JPEG-LS; earlier versions return pixels for some damaged files
        "dicom": ["pydicom>=3.0", "python-gdcm>=3.0.26"],
        "shards": ["webdataset>=1.0"],  # says what a sample is; tarfile finds it
        "parquet": ["pyarrow>=18"],  # lists of images in Parquet
        # score --ray, ScoreImages. Ray 2.57 to 2.59 drop a table's column `path`; earlier versions read a damaged table
        # again and again without end.
        "cluster": ["ray[data]>=2.60", "pyarrow>=18"],
        # what --to onnx writes with, and --verify runs
        "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.6"],
        "tensorboard": ["tensorboard>=2.14"],  # what train --tensorboard writes with
        # what bench/peers.py compares with, in an environment of its own: not in CI nor in the lock files
        "peers": ["anomalib>=2.7", "pyod>=3.6"],
        "features": ["timm>=1.0"],  # bench/peers.py --features FILE
        "lint": ["ruff>=0.12", "basedpyright>=1.31"],
        "triton": ["triton>=3.6; platform_system == 'Linux' and platform_machine == 'x86_64'"],
    },
)
