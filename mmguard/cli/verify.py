"""`mmguard verify`: check that a bundle computes here what it computed where it was calibrated."""

from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, Device, app
from mmguard.guard.sessions import PROVIDERS
from mmguard.guard.verify import verify_bundle


@app.command
def verify(bundle: Path, *, device: Device = "cpu") -> int:
    """Check a bundle's hashes, and that both networks give the stored logits here.

    Parameters
    ----------
    bundle
        Guard bundle.
    device
        Where the networks run.
    """
    opened = Bundle.open(bundle)
    difference = verify_bundle(opened, PROVIDERS[device])
    print(f"{bundle}: every file is as the manifest says; the manifest's own sha256 is {opened.digest()}")
    print(f"both networks give the stored logits on {device} within {difference:.1e}")
    return DONE
