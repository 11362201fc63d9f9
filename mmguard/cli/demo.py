"""`mmguard demo`: train a backdoored model and detect its triggers."""

from pathlib import Path

from mmguard.cli.app import app
from mmguard.errors import MissingExtraError


@app.command
def demo(*, out: Path = Path("mmguard-demo"), seed: int = 0) -> int:
    """Train a backdoored digit classifier, guard it, attack it, and show what the guard does.

    Parameters
    ----------
    out
        Folder for the model, the images and the bundle.
    seed
        Random seed.
    """
    try:
        from mmguard.demo import run  # needs the extra `demo`
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("the demo", error.name, "demo") from error
    return run(out, seed)
