"""`mmguard report`: print the path of a bundle's report, or open it."""

import webbrowser
from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, FAILED, app
from mmguard.cli.console import console


@app.command
def report(bundle: Path, *, open: bool = False) -> int:
    """Print the path of a bundle's report for reviewers, after checking the hash of every file.

    Parameters
    ----------
    bundle
        Folder of the guard bundle.
    open
        Also open the report in the browser.
    """
    page = Bundle.open(bundle).report()
    print(page)
    if open and not webbrowser.open(page.resolve().as_uri()):
        console.print(f"mmguard: no browser found; open {page} yourself", style="red", markup=False, soft_wrap=True)
        return FAILED
    return DONE
