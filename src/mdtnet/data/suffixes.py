"""Videos and frames, recognised by file names; names in messages."""

import os

VIDEO_SUFFIXES = (
    *(".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".3gp", ".gif", ".ts", ".mts", ".m2ts", ".ogv", ".asf", ".divx", ".xvid", ".vob", ".f4v", ".3g2"),
    *(
        ".m2v",
        ".mpe",
        ".mxf",
        ".rm",
        ".rmvb",
        ".dv",
        ".y4m",
        ".ivf",
        ".h264",
        ".264",
        ".hevc",
        ".265",
        ".mjpeg",
        ".mjpg",
    ),
    *(".ogm", ".qt", ".wtv", ".trp", ".mod", ".tod"),
)


def is_video(path: str) -> bool:
    """Whether a file is a video by its name; hidden files, such as macOS's `._jump.mp4`, are not."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith(".")


def is_image(name: str) -> bool:
    """Whether a file is a frame by its name; hidden files, such as macOS's `._0001.jpg`, are not."""
    name = os.path.basename(name)
    return name.lower().endswith((".jpg", ".jpeg", ".png")) and not name.startswith(".")
