"""Classify a video with a network that `mdtnet export` wrote: NumPy, PyAV and ONNX Runtime, neither torch nor mdtnet.

    pip install numpy av onnxruntime
    python classify.py best.onnx clip.mp4

What lies between the video and the network is in the file's own description (docs/export.md). Left out here, for
brevity: damaged files, mirrored frames, folders of pictures, several views per video.
"""

import json
import sys

import av
import numpy as np
import onnxruntime


def main(network: str, video: str) -> None:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["mdtnet"])
    if about["exposure"] != "none" or about["stream"]:
        sys.exit("this example changes no brightness and takes no streams")
    (probabilities,) = session.run(None, {"frames": clip(video, about)[None]})
    for best in probabilities[0].argsort()[::-1][:5]:
        print(f"{probabilities[0, best]:6.1%}  {about['classes'][best]}")


def clip(video: str, about: dict) -> np.ndarray:
    """What the network sees of a video: uint8 [T, K, S, S, 3]."""
    times = np.array([frame.time for frame in frames_of(video)])
    indices = chosen(times - times[0], about)
    wanted = set(indices.flat)
    found = {i: prepared(frame, about) for i, frame in enumerate(frames_of(video)) if i in wanted}
    return np.stack([[found[i] for i in segment] for segment in indices])


def frames_of(video: str):
    """All frames in the order in which they are shown; no header is believed."""
    with av.open(video) as container:
        yield from container.decode(video=0)


def chosen(times: np.ndarray, about: dict) -> np.ndarray:
    """Numbers of each segment's frames, [T, K], of a video whose frames are shown at `times`, in seconds from 0."""
    shown = np.arange(len(times))
    if about["fps"]:  # frames at 0, 1 / fps, 2 / fps, ... seconds
        last = np.median(np.diff(times)) if len(times) > 1 else 1 / about["fps"]
        count = max(1, round((times[-1] + last) * about["fps"]))
        shown = np.searchsorted(times, np.arange(count) / about["fps"] + 1e-3, side="right") - 1
    segments, frames, stride = about["num_segments"], about["frames_per_segment"], about["frame_stride"]
    if about["sampling"] == "random":  # evenly spread in a test
        spread = len(shown) * (2 * np.arange(segments * frames) + 1) // (2 * segments * frames)
        return shown[spread].reshape(segments, frames)
    starts = max(len(shown) - (frames - 1) * stride, 1)
    first = starts * (2 * np.arange(segments) + 1) // (2 * segments)
    return shown[np.minimum(first[:, None] + np.arange(frames) * stride, len(shown) - 1)]


def prepared(frame: av.VideoFrame, about: dict) -> np.ndarray:
    """A frame scaled in its own format, then as RGB, upright, its centre: uint8 [S, S, 3]."""
    size = about["size"]
    scale = max(about["short_side"], size) / min(frame.height, frame.width)
    height, width = round(frame.height * scale), round(frame.width * scale)
    small = frame.reformat(width, height, frame.format.name, interpolation="BILINEAR")
    picture = small.reformat(format="rgb24", interpolation="BILINEAR").to_ndarray()
    picture = np.rot90(picture, frame.rotation // 90)
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return picture[top : top + size, left : left + size]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python classify.py NETWORK.onnx VIDEO")
    main(*sys.argv[1:])
