"""`mmguard verify`: check that a bundle is intact and that its networks reproduce the stored logits on this machine."""

from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, Device, app
from mmguard.guard.verify import verify_bundle


@app.command
def verify(bundle: Path, *, device: Device = "cpu") -> int:
    """Check the hashes of a bundle, and check that both networks reproduce the stored logits on this machine.

    Parameters
    ----------
    bundle
        Folder of the guard bundle.
    device
        Device that the networks run on.
    """
    opened = Bundle.open(bundle)
    difference = verify_bundle(opened, device)
    print(f"{bundle}: every file matches the manifest; the sha256 of the manifest is {opened.digest()}")
    print(f"both networks reproduce the stored logits on {device}; the largest relative difference is {difference:.1e}")
    return DONE
