"""`tf-reweight init`: the configurations that ship with the package, in a folder of the user's."""

import pathlib

from tf_reweight import errors, files

_PACKAGE = pathlib.Path(__file__).parent.parent


def shipped():
    """Where the configurations are: inside an installed package, beside it in a checkout."""
    places = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    found = [place for place in places if (place / "quickstart.yaml").is_file()]
    if not found:
        fix = "Install the package again, or run from a checkout."
        raise FileNotFoundError(errors.message("The shipped configurations must be there.", fix, folder=str(places[0])))
    return found[0]


def write(folder):
    """Writes the configurations, and the made tasks that some of them name, into `folder/configs`.

    Returns:
        The paths that were written; files that are there already and the same are left.

    Raises:
        FileExistsError: when a file is there that differs; nothing is written.
        NotADirectoryError: when the folder is a file.
    """
    target = pathlib.Path(folder) / "configs"
    for place in (target.parent, target):
        if place.exists() and not place.is_dir():
            fix = "Choose another."
            raise NotADirectoryError(errors.message("`init` takes a folder.", fix, folder=str(place)))
    sources = sorted(path for path in shipped().iterdir() if path.suffix in (".yaml", ".py") and path.name != "__init__.py")
    there = [path for path in sources if (target / path.name).exists()]
    different = [path.name for path in there if (target / path.name).read_bytes() != path.read_bytes()]
    if different:
        fix = "Move them away, or name another folder."
        raise FileExistsError(errors.message("`init` overwrites no files of yours.", fix, files=different, folder=str(target)))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        expected = f"`init` must be able to make its folder; the system says: {error.strerror}."
        raise OSError(errors.message(expected, "Choose another.", folder=str(target))) from error
    written = [path for path in sources if path not in there]
    for path in written:
        files.write_whole(target / path.name, path.read_bytes())
    return [target / path.name for path in written]
