"""`embedgate restore`: puts an archive of `embedgate backup` back into the data folder, or only checks it."""

from pathlib import Path
from typing import Annotated

import typer

from embedgate.cli import options
from embedgate.cli.archives import DataDir, ends, megabytes, open_settings
from embedgate.cli.output import print_json, print_shown
from embedgate.cli.results import say


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Archive of `embedgate backup`.", show_default=False)],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Into a folder that is not empty; what is replaced is kept in a folder inside of it."
        ),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the archive, to its last byte.")] = False,
    data_dir: DataDir = None,
    as_json: options.AsJson = False,
    config_file: options.ConfigFile = None,
) -> None:
    """Restore the data folder from an archive, while no gateway runs on it.

    An archive of an older version is brought up to date. What was used and spent after the backup is not known then.
    """
    from embedgate.wiring.backup import check_backup, restore_backup

    if check:
        if replace:
            raise typer.BadParameter("--check changes nothing; leave --replace out")
        manifest = check_backup(file, megabytes)
        if as_json:
            print_json(manifest)
        else:
            print_shown(
                f"{file} is whole: made at {manifest.made_at} by embedgate {manifest.made_by}\n{ends(manifest)}"
            )
        return
    restored = restore_backup(open_settings(context, config_file, data_dir), file, megabytes, is_replacing=replace)
    if as_json:
        print_json(
            {
                "manifest": restored.manifest,
                "folder": str(restored.folder),
                "replaced": restored.aside and str(restored.aside),
                "warnings": restored.warnings,
            }
        )
    else:
        print_shown(f"{restored.folder} is as it was at {restored.manifest.made_at}\n{ends(restored.manifest)}")
        if restored.aside is not None:
            print_shown(f"what was replaced is in {restored.aside}; delete it when you are sure")
    for warning in restored.warnings:
        say(f"warning: {warning}")
