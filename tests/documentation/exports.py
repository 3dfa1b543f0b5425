"""The same labels as four annotation tools export them."""

import json

Marks = dict[str, str]
"""Video -> its label from 0.1 to 0.5 s, frames 3 to 15 of 30 per second."""


def label_studio(marks: Marks) -> str:
    """JSON-MIN; frames count from 1."""
    return json.dumps(
        [
            {"video": video, "videoLabels": [{"ranges": [{"start": 4, "end": 15}], "timelinelabels": [label]}]}
            for video, label in marks.items()
        ]
    )


def cvat(marks: Marks) -> str:
    """A project of one task per video; the action is an attribute of a track."""
    tasks = "".join(f"<task><id>{i}</id><source>{video}</source></task>" for i, video in enumerate(marks))
    tracks = "".join(
        f'<track id="{i}" label="person" task_id="{i}">'
        f'<box frame="3" outside="0"><attribute name="action">{label}</attribute></box>'
        '<box frame="15" outside="1"/></track>'
        for i, label in enumerate(marks.values())
    )
    return f"<annotations><version>1.1</version><meta><project>{tasks}</project></meta>{tracks}</annotations>"


def activitynet(marks: Marks) -> str:
    """The last video of each label is of the validation part."""
    last = {label: video for video, label in marks.items()}
    database = {
        video.removesuffix(".mp4"): {
            "subset": "validation" if last[label] == video else "training",
            "annotations": [{"label": label, "segment": [0.1, 0.5]}],
        }
        for video, label in marks.items()
    }
    return json.dumps({"database": database})


def via(marks: Marks) -> str:
    """A project of one view per video."""
    numbers = {video: str(i) for i, video in enumerate(marks)}
    return json.dumps(
        {
            "attribute": {"1": {"aname": "action", "options": {}}},
            "file": {number: {"fname": video} for video, number in numbers.items()},
            "view": {number: {"fid_list": [number]} for number in numbers.values()},
            "metadata": {
                f"{numbers[video]}_x": {"vid": numbers[video], "z": [0.1, 0.5], "xy": [], "av": {"1": label}}
                for video, label in marks.items()
            },
        }
    )
