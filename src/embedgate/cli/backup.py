"""`embedgate backup`: one archive of the data folder, made while the gateway runs or not."""

from pathlib import Path
from typing import Annotated

import typer

from embedgate.cli import options
from embedgate.cli.archives import DataDir, ends, megabytes, open_settings
from embedgate.cli.output import print_json, print_shown
from embedgate.cli.results import say


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Archive to make.", show_default=False)],
    with_keys: Annotated[
        bool,
        typer.Option(
            "--with-keys", help="With secrets.key, admin.key and user.key: whoever has the archive can use them."
        ),
    ] = False,
    without_collections: Annotated[
        bool, typer.Option("--without-collections", help="Without the collections of texts in the data folder.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")] = False,
    data_dir: DataDir = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Back the data folder up into one archive, as it is at one moment, while the gateway runs or not.

    In it: database, intents, collections; not in it: cached vectors, prepared models, answers to idempotency keys.
    """
    from embedgate.wiring.backup import make_backup

    manifest = make_backup(
        open_settings(context, config_file, data_dir),
        file,
        megabytes,
        with_keys=with_keys,
        with_collections=not without_collections,
        is_replacing=overwrite,
    )
    if as_json:
        print_json(manifest)
    else:
        n_files = len(manifest.members)
        files = "1 file" if n_files == 1 else f"{n_files:,} files"
        print_shown(f"{file}: {files} in {file.stat().st_size:,} bytes\n{ends(manifest)}")
    if not manifest.books.is_intact:
        say("warning: the books are not intact; `embedgate audit verify` says where")
    if not with_keys:
        say("note: keys are not in it; keep secrets.key apart, which stored provider keys are sealed with")
