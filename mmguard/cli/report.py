"""`mmguard report`: find the page for reviewers."""

import webbrowser
from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, FAILED, app
from mmguard.cli.formatting import (
    console,
)


@app.command
def report(bundle: Path, *, open: bool = False) -> int:
    """Print the path of a bundle's page for reviewers, after checking every file's hash.

    Parameters
    ----------
    bundle
        Guard bundle.
    open
        Open it in the browser too.
    """
    page = Bundle.open(bundle).report()
    print(page)
    if open and not webbrowser.open(page.resolve().as_uri()):
        console.print(f"mmguard: no browser was found; open {page} yourself", style="red", markup=False, soft_wrap=True)
        return FAILED
    return DONE
