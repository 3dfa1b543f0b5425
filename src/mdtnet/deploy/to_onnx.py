"""Networks as ONNX files, in float32, with weights stored as float16, or with a trunk of 8 bits."""

import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdtnet.deploy.graph import first_line, in_trunk
from mdtnet.errors import ExportError
from mdtnet.inference.exported import required
from mdtnet.inference.views import KEY, Description

OPSET = 20  # of ONNX; 19 is the first with DeformConv


def write_onnx(program: torch.export.ExportedProgram, description: Description, views: np.ndarray, file: Path) -> None:
    """Write an ONNX model; `int8` is calibrated with the clips `views`."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        required(name, file)
    import onnx

    try:
        onnx_program: Any = torch.onnx.export(
            program,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            input_names=["frames"],
            output_names=["probabilities"],
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"ONNX cannot express the network: {first_line(error)}") from error
    model = onnx_program.model_proto
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.value_info, *model.graph.input):
        part.ClearField("metadata_props")  # source lines and folders of this machine
    if description.precision == "half":
        _store_half(model)
    if description.precision == "int8":
        model = _quantised_onnx(model, views, file)
    onnx.helper.set_model_props(model, {KEY: description.to_json()})
    onnx.save(model, file)


def _store_half(model: Any) -> None:
    """Store weight matrices as float16, cast back to float32 where they are used (once, when a runtime loads it)."""
    import onnx

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        cast = onnx.helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT)
        casts.append(cast)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _quantised_onnx(model: Any, views: np.ndarray, file: Path) -> Any:
    """The trunk's convolutions in 8 bits, but the first, which sees the pixels.

    Salience, differences and excitations are small numbers that decide much. Of the activations the outermost 0.01 %
    are clipped. Weights get 7 of their bits, since processors without VNNI overflow with 8.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = model.graph.input[0].name
    trunk = [node.name for node in model.graph.node if node.op_type == "Conv" and in_trunk(node.input[1])]

    class Clips(quantization.CalibrationDataReader):
        def __len__(self) -> int:
            return len(views)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.clips = iter(views[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            clip = next(self.clips, None)
            return None if clip is None else {name: clip[None]}

    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        plain, ready, small = (str(Path(folder, f"{n}.onnx")) for n in ("plain", "folded", "small"))
        onnx.save(model, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        with redirect_stdout(StringIO()):
            quantization.quantize_static(
                ready,
                small,
                Clips(),
                per_channel=True,
                nodes_to_quantize=trunk[1:],
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": 99.99, "CalibStridedMinMax": 1},  # one clip in memory at a time
            )
        return onnx.load(small)
