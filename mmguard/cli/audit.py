"""`mmguard audit`: judge whether a bundle's original network is backdoored."""

from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, FOUND, NO_VERDICT, app
from mmguard.cli.formatting import (
    describe_audit,
)
from mmguard.detection.audit import audit as audit_margins
from mmguard.errors import AuditError


@app.command
def audit(bundle: Path) -> int:
    """Judge whether a bundle's original network is backdoored, and for which class.

    Exit code 3: it is, at 5 %. Exit code 4: there is no verdict, because the model has two classes only, of which
    neither can stand out from the others, or because the bundle was calibrated with --no-audit.

    Parameters
    ----------
    bundle
        Guard bundle.
    """
    manifest = Bundle.open(bundle).manifest
    try:
        found = audit_margins(manifest.calibration.margins())
    except AuditError as error:
        print(f"no verdict: {error}")
        return NO_VERDICT
    print(describe_audit(found, manifest.classes))
    return FOUND if found.backdoored else DONE
