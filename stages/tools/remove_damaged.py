"""Are the files of the DVC cache, or of the remote, still what they were? Removes those that are not.

DVC names every file after the MD5 of its bytes, and afterwards trusts the name: `dvc status` calls a damaged file up to
date, and `dvc push` skips one that the remote holds already, though an upload that broke off may have left half of it
there. This reads all of them. Once a damaged file is gone, `dvc pull` or `dvc repro` fetches or makes it again in the
cache, and `dvc push` sends it again to the remote.
"""

import argparse
import json
import signal
import sys
from collections.abc import Collection

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_data.hashfile.hash import file_md5
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.tools.passwords import ENCODED, hide, list_secrets


def find_damaged(store: HashFileDB) -> list[str]:
    """Finds the damaged files of a cache or remote, and shows a bar meanwhile; before them, the lists that name them.

    The name of a file is its MD5, to which `.dir` is added for the list of a folder. Where such a list lies on a
    remote, `dvc push` takes the files of the folder to be there.
    """
    names = sorted(store.all())  # type: ignore[no-untyped-call] # of DVC
    damaged = [
        name
        for name in tqdm(names, unit="file", leave=False, disable=None)
        if file_md5(store.oid_to_path(name), store.fs) != name.removesuffix(".dir")
    ]
    lists = [name for name in names if name.endswith(".dir") and name not in damaged] if damaged else []
    return [*(name for name in lists if lists_any(store, name, damaged)), *damaged]


def lists_any(store: HashFileDB, name: str, files: Collection[str]) -> bool:
    """Tells whether the sound list `name` of a folder names any of these files."""
    with store.fs.open(store.oid_to_path(name), "rb") as file:
        return any(entry["md5"] in files for entry in json.load(file))


def remove_damaged(store: HashFileDB, place: str) -> list[str]:
    """Removes the damaged files of a cache or remote, says which ones, and lists their names.

    Raises:
        UserError: if the remote cannot be reached, or nothing was ever sent there.
    """
    shown = hide(store.fs.unstrip_protocol(store.path))
    try:
        if place == "remote" and not store.fs.exists(store.path):
            raise UserError(
                f"remote: expected files in {shown}, found none; check the URL "
                "in `dvc remote list`, and that it is mounted and can be reached; `dvc push` sends the first files"
            )
        damaged = find_damaged(store)
        for name in damaged:
            path = store.oid_to_path(name)
            store.fs.remove(path)
            print(f"removed {hide(path)}")
    except UserError:
        raise
    except Exception as error:  # each protocol's library raises errors of its own
        said = hide(str(error), list_secrets(store.fs.config))
        raise UserError(
            f"{place}: {type(error).__name__}: {said}; check that {shown} can be reached "
            "and written, and try again: what was removed stays removed"
        ) from error
    return damaged


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.tools.remove_damaged",
        description="Reads all files of the DVC cache or of the default remote, and removes those that are damaged. "
        "A file that is still being sent or written looks damaged: nobody may push meanwhile, nor this clone run DVC.",
    )
    parser.add_argument(
        "place", choices=["cache", "remote"], help="cache: of this clone; remote: where `dvc push` sends, shared by all"
    )
    place = parser.parse_args().place

    try:
        repo = Repo()
        store = repo.cache.local if place == "cache" else repo.cloud.get_remote_odb()
    except (DvcException, NotDvcRepoError) as error:  # no repository here, or it names no remote
        raise UserError(hide(str(error))) from error
    except ValueError as error:  # it shows a part of the URL, which may be of the password
        raise UserError(f"{place}: cannot read its URL; its user and password need {ENCODED}") from error
    damaged = remove_damaged(store, place)
    get_index(store).clear()  # what DVC remembers of a remote
    print(f"{hide(store.fs.unstrip_protocol(store.path))}: damaged files and lists that name them: {len(damaged)}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
