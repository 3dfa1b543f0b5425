"""Networks as ONNX files, in float32, with weights stored as float16, or with a trunk of 8 bits.

Writing needs torch, loading does not: torch is imported where it is used.
"""

import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdtnet.deploy.runtime import Stepped, last_line, required
from mdtnet.errors import CheckpointError, ExportError
from mdtnet.inference.description import KEY, Classify, Description, Step, clip_shape

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

    from mdtnet.models.network import Network

OPSET = 20  # of ONNX; 19 is the first with DeformConv


def load(file: Path, *, threads: int = 0) -> tuple[Classify, str]:
    """The network of a file, run by ONNX Runtime on `threads` threads (0: as many as it likes), and its description.

    Raises:
        CheckpointError: the file is not an ONNX model that runs here.
        ConfigError: ONNX Runtime is not installed.
    """
    runtime = required("onnxruntime", file)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # its threads would wait busily for the next call, while a video is decoded on the same cores
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own classes, one for every status
        raise CheckpointError(f"{file}: not an ONNX model that runs here: {last_line(error)}") from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "")
    name, *memory = session.get_inputs()
    if memory:
        return Stepped(_step(session, name.name, {each.name: tuple(each.shape[1:]) for each in memory})), text
    return lambda frames: session.run(None, {name.name: frames})[0], text


def _step(session: "InferenceSession", frames: str, memory: dict[str, tuple[int, ...]]) -> Step:
    """`memory`: names of the inputs of the state, in the order of the outputs, and their shapes without B."""

    def step(segments: np.ndarray, state: list[np.ndarray] | None) -> tuple[np.ndarray, list[np.ndarray]]:
        if state is None:
            state = [np.zeros((len(segments), *shape), dtype=np.float32) for shape in memory.values()]
        probabilities, *state = session.run(None, {frames: segments, **dict(zip(memory, state))})
        return probabilities, state

    return step


def write(model: "Network", description: Description, views: np.ndarray, file: Path) -> None:
    """Write an ONNX model; `int8` is calibrated with the clips `views`."""
    import onnx
    import torch

    from mdtnet.deploy.graph import first_line, pure, traced, traced_stream

    inputs, outputs = ["frames"], ["probabilities"]
    if description.stream:
        program = traced_stream(model, description)
        memory = range(len(program.graph_signature.user_inputs) - 1)
        inputs, outputs = inputs + [f"state_{i}" for i in memory], outputs + [f"next_{i}" for i in memory]
    else:
        program = traced(pure(model), clip_shape(description), multi_label=description.multi_label)
    try:
        onnx_program = torch.onnx.export(
            program,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"ONNX cannot express the network: {first_line(error)}") from error
    if onnx_program is None:  # only where the exporter itself writes a file
        raise ExportError("ONNX cannot express the network")
    proto = onnx_program.model_proto
    for part in (*proto.graph.node, *proto.graph.initializer, *proto.graph.value_info, *proto.graph.input):
        part.ClearField("metadata_props")  # source lines and folders of this machine
    if description.precision == "half":
        _store_half(proto)
    if description.precision == "int8":
        proto = _quantise(proto, views, file)
    onnx.helper.set_model_props(proto, {KEY: description.to_json()})
    onnx.save(proto, file)


def _store_half(model: "ModelProto") -> None:
    """Store weight matrices as float16, cast back to float32 where they are used (once, when a runtime loads them)."""
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


def _quantise(model: "ModelProto", views: np.ndarray, file: Path) -> "ModelProto":
    """The model with the trunk's convolutions in 8 bits, except the first, which sees the pixels.

    Salience, differences and excitations stay as they are: small numbers that decide much. The outermost 0.01 % of the
    activations are clipped. Weights get 7 bits, since processors without VNNI overflow with 8.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from mdtnet.deploy.graph import in_trunk

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
        try:
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
        except ValueError as error:  # of numpy: no histogram
            raise ExportError(
                f"8 bits cannot hold the network ({error}): an activation hardly varies, expected trained weights"
            ) from error
        return onnx.load(small)
