"""What setup.cfg cannot say: two folders beside the package travel inside it, see `lit_pursamere.shipped`."""

from setuptools import find_packages, setup

FOLDERS = ("configs", "checkpoints")

setup(
    packages=[*find_packages(include=["lit_pursamere*"]), *(f"lit_pursamere.{folder}" for folder in FOLDERS)],
    package_dir={f"lit_pursamere.{folder}": folder for folder in FOLDERS},
)
