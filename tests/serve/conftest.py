"""What the server is asked about."""

from pathlib import Path

import pytest
from clips import frames_of_square, make_checkpoint, write_video


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder of a checkpoint and videos: `best.pt`, `short.mp4`, `long.mp4` (5 s), `old.avi`, `bad.mp4`."""
    folder = tmp_path_factory.mktemp("served")
    make_checkpoint(folder / "best.pt", seconds=2.0)
    write_video(folder / "short.mp4", frames_of_square(24))
    write_video(folder / "long.mp4", frames_of_square(60))
    write_video(folder / "old.avi", frames_of_square(24), codec="mpeg4")
    (folder / "bad.mp4").write_text("no video")
    return folder
