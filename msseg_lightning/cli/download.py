"""Download a public data set, or one file, and compare it with its hash."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg download                                       the data sets that are known
  msseg download open_ms                               into data/open_ms; again: goes on
  msseg download open_ms --folder /data/open_ms
  msseg download --url https://host/scans.zip --sha256 HASH --folder /data/scans

Every file is compared with the hash of its card. A file is under its name only when it is whole; an
interrupted download goes on where it stopped. An archive (.zip, .tar, .tar.gz) that is given by
--url is extracted into FOLDER; links, devices and paths that lead out of it are refused.
exit codes: 0 all files are there, 2 wrong options, 5 the server cannot be reached, 6 another
content than the card names, or an unsafe archive
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Fetch what is missing and say how it is read."""
    parser = argparse.ArgumentParser(
        prog="msseg download",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a card; see above")
    parser.add_argument("--url", help="a file that has no card; needs --sha256 and --folder")
    parser.add_argument("--sha256", metavar="HASH", help="of that file")
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="data/NAME by default")
    options = parser.parse_args(arguments)
    single = (options.url, options.sha256)
    if any(single) and not (all(single) and options.folder and not options.name):
        parser.error("--url, --sha256 and --folder go together, without NAME")
    if options.sha256 and not _is_hash(options.sha256):
        parser.error("--sha256 takes 64 hexadecimal digits")

    from msseg_lightning.run.data.download import card_names, read_card

    if not options.name and not options.url:
        for name in card_names():
            card = read_card(name)
            sys.stdout.write(f"{name:<12} {card.about} ({card.licence})\n")
        return ExitCode.OK
    if options.url:
        return _one_file(options.url, options.sha256.lower(), options.folder)
    from msseg_lightning.run.data.download import download

    card = read_card(options.name)
    folder = options.folder or Path("data") / card.name
    done = download(card.files, folder, _advance)
    sys.stdout.write(
        f"{len(done.fetched)} files fetched, {len(done.present)} were there: {folder}\n"
        f"licence  {card.licence}\ncite     {card.cite}\n"
        f"next     msseg check read={card.reader} read.root={folder}\n"
    )
    return ExitCode.OK


def _one_file(url: str, sha256: str, folder: Path) -> ExitCode:
    from urllib.parse import unquote, urlsplit

    from msseg_lightning.run.data.archive import extract, is_archive
    from msseg_lightning.run.data.download import RemoteFile, download

    name = unquote(Path(urlsplit(url).path).name) or "download"
    file = RemoteFile(name, url, f"sha256:{sha256}")
    if not is_archive(Path(name)):
        download([file], folder)
        sys.stdout.write(f"{folder / name}\n")
        return ExitCode.OK
    beside = folder.with_name(f".{folder.name}.archive")  # the folder itself appears when complete
    download([file], beside)
    count = extract(beside / name, folder)
    (beside / name).unlink()
    beside.rmdir()
    sys.stdout.write(f"{count} files extracted: {folder}\n")
    return ExitCode.OK


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")


def _advance(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} files" + ("\n" if done == total else ""))
