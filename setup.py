"""Package list only: three top-level folders are installed as one distribution (see pyproject.toml)."""

from setuptools import find_packages, setup

FOLDERS = {"bucketmod": "bucketmod", "bucketmod.compiler": "compiler", "bucketmod.runtime": "runtime"}

inner = [f"{root}.{package}" for root, folder in FOLDERS.items() for package in find_packages(folder)]
setup(packages=[*FOLDERS, *inner])
