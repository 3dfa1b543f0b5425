"""Networks as OpenVINO files, in float32, with weights stored as float16, or with a trunk of 8 bits.

Writing needs torch, loading does not: torch is imported where it is used.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdtnet.deploy.runtime import last_line, required
from mdtnet.errors import CheckpointError, ExportError
from mdtnet.inference.description import KEY, Classify, Description, clip_shape

if TYPE_CHECKING:
    from openvino import Model

    from mdtnet.models.network import Network


def load(file: Path, *, threads: int = 0) -> tuple[Classify, str]:
    """The network of a file, run by OpenVINO on `threads` threads (0: as many as it likes), and its description.

    Raises:
        CheckpointError: the file is not an OpenVINO model that runs here.
        ConfigError: OpenVINO is not installed.
    """
    runtime = required("openvino", file)
    # float32 even where the CPU could do bfloat16: probabilities are those that were checked at export
    options: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        core = runtime.Core()
        model = core.read_model(file)
        compiled = core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not an OpenVINO model that runs here: {last_line(error)}") from error
    text = str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else ""
    return lambda frames: np.array(compiled(frames)[0]), text


def write(model: "Network", description: Description, views: np.ndarray, file: Path) -> None:
    """Write an OpenVINO model, from torch.export's program; `int8` is calibrated with the clips `views`."""
    import openvino

    from mdtnet.deploy.graph import first_line, in_trunk, pure, traced

    program = traced(pure(model, steps=True), clip_shape(description), multi_label=description.multi_label)
    try:
        converted = openvino.convert_model(program)
    except Exception as error:  # the converter's own classes
        raise ExportError(f"OpenVINO cannot express the network: {first_line(error)}") from error
    converted.reshape([-1, *clip_shape(description)])
    if description.precision == "int8":
        trunk = {
            w.detach().numpy().tobytes() for name, w in program.state_dict.items() if in_trunk(name) and w.ndim == 4
        }
        converted = _quantise(converted, trunk, views, file)
    converted.set_rt_info(description.to_json(), KEY)
    openvino.save_model(converted, file, compress_to_fp16=description.precision == "half")


def _quantise(model: "Model", trunk: set[bytes], views: np.ndarray, file: Path) -> "Model":
    """The model with all convolutions of the trunk in 8 bits, the first too.

    The converter forgets names, so `trunk` holds the values of the trunk's weights.
    """
    nncf = required("nncf", Path(file.name), extra="int8")
    logging.getLogger("nncf").setLevel(logging.WARNING)
    others = []
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            weight = op.input_value(1).get_node()
            if weight.get_type_name() != "Constant" or weight.data.tobytes() not in trunk:
                others.append(op.get_friendly_name())
    clips = nncf.Dataset([clip[None] for clip in views])
    return nncf.quantize(model, clips, subset_size=len(views), ignored_scope=nncf.IgnoredScope(names=others))
