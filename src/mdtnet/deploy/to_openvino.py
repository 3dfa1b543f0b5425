"""Networks as OpenVINO files, in float32, with weights stored as float16, or with a trunk of 8 bits."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdtnet.deploy.graph import first_line, in_trunk
from mdtnet.errors import ExportError
from mdtnet.inference.exported import required
from mdtnet.inference.views import KEY, Description, clip_shape


def write_openvino(
    program: torch.export.ExportedProgram, description: Description, views: np.ndarray, file: Path
) -> None:
    """Write an OpenVINO model, from torch.export's program; `int8` is calibrated with the clips `views`."""
    openvino = required("openvino", file)
    try:
        model = openvino.convert_model(program)
    except Exception as error:  # the converter's own classes
        raise ExportError(f"OpenVINO cannot express the network: {first_line(error)}") from error
    model.reshape([-1, *clip_shape(description)])
    if description.precision == "int8":
        trunk = {
            w.detach().numpy().tobytes() for name, w in program.state_dict.items() if in_trunk(name) and w.ndim == 4
        }
        model = _quantised_openvino(model, trunk, views, file)
    model.set_rt_info(description.to_json(), KEY)
    openvino.save_model(model, file, compress_to_fp16=description.precision == "half")


def _quantised_openvino(model: Any, trunk: set[bytes], views: np.ndarray, file: Path) -> Any:
    """As `_quantised_onnx`, the first too. The converter forgets names, so `trunk` holds the values of weights."""
    nncf = required("nncf", file)
    logging.getLogger("nncf").setLevel(logging.WARNING)
    others = []
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            weight = op.input_value(1).get_node()
            if weight.get_type_name() != "Constant" or weight.data.tobytes() not in trunk:
                others.append(op.get_friendly_name())
    clips = nncf.Dataset([clip[None] for clip in views])
    return nncf.quantize(model, clips, subset_size=len(views), ignored_scope=nncf.IgnoredScope(names=others))
