"""Package list only: three top-level folders are installed as one distribution (see pyproject.toml)."""

from setuptools import find_packages, setup

FOLDERS = {"bucketmod": "bucketmod", "bucketmod.compiler": "compiler", "bucketmod.runtime": "runtime"}

setup(packages=[name for root, folder in FOLDERS.items() for name in [root, *(f"{root}.{p}" for p in find_packages(folder))]])
