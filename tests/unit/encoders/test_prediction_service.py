"""TensorFlow-Serving's messages: ours against the official ones, and tensors to and from arrays."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from encoders.image.prediction_service import BadTensor, to_array, to_string_tensor, to_tensor, type_name
from encoders.tfserving.v1 import prediction_pb2 as pb

# Imports the official stubs without importing TensorFlow: by an empty module that only has TensorFlow's path.
IMPORT_OFFICIAL = """
import importlib.util, json, sys, types
empty = types.ModuleType("tensorflow")
empty.__path__ = list(importlib.util.find_spec("tensorflow").submodule_search_locations)
sys.modules["tensorflow"] = empty
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, model_management_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from encoders.tfserving.v1 import prediction_pb2 as pb, saved_model_pb2 as signatures
"""


def run_script(script: str) -> str:
    """Run a script in another process, and return its output."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_client_imports_without_tensorflow_and_in_little_memory() -> None:
    output = run_script(
        "import pathlib, sys, json\n"
        "import encoders.image.client\n"
        "loaded = [name for name in sys.modules if name.startswith(('tensorflow', 'keras'))]\n"
        "status = pathlib.Path('/proc/self/status')\n"  # Not ru_maxrss, which starts at the parent's.
        "lines = status.read_text().splitlines() if status.exists() else []\n"
        "print(json.dumps([loaded, [int(line.split()[1]) for line in lines if line.startswith('VmHWM')]]))"
    )
    loaded, peak_kib = json.loads(output)
    assert loaded == []
    assert sum(peak_kib) < 150 * 1024


def test_every_field_is_in_the_official_protocol() -> None:
    """Compares name, number, type, label and packing; if they are equal, so are the bytes on the wire."""
    script = IMPORT_OFFICIAL + (
        "from encoders.image.prediction_service import pb\n"
        "def shape(f):\n"
        "    kind = 'int32' if f.type in (f.TYPE_INT32, f.TYPE_ENUM) else f.type\n"
        "    return f.name, kind, f.is_repeated, f.is_repeated and f.is_packed\n"
        "seen = set()\n"
        "def compare(ours, theirs):\n"
        "    if ours.full_name in seen: return\n"
        "    seen.add(ours.full_name)\n"
        "    for f in ours.fields:\n"
        "        official = theirs.fields_by_number[f.number]\n"
        "        assert shape(f) == shape(official), (ours.full_name, f.name)\n"
        "        global count; count += 1\n"
        "        if f.message_type and f.message_type.file.package == 'tfserving.v1':\n"
        "            compare(f.message_type, official.message_type)\n"
        "        elif f.enum_type:\n"
        "            for v in f.enum_type.values:\n"
        "                assert official.enum_type.values_by_number[v.number].name == v.name\n"
        "count = 0\n"
        "compare(pb.PredictRequest.DESCRIPTOR, predict_pb2.PredictRequest.DESCRIPTOR)\n"
        "compare(pb.PredictResponse.DESCRIPTOR, predict_pb2.PredictResponse.DESCRIPTOR)\n"
        "compare(pb.GetModelStatusRequest.DESCRIPTOR, get_model_status_pb2.GetModelStatusRequest.DESCRIPTOR)\n"
        "compare(pb.GetModelStatusResponse.DESCRIPTOR, get_model_status_pb2.GetModelStatusResponse.DESCRIPTOR)\n"
        "compare(pb.PredictionLog.DESCRIPTOR, prediction_log_pb2.PredictionLog.DESCRIPTOR)\n"
        "for name in ('GetModelMetadataRequest', 'GetModelMetadataResponse'):\n"
        "    compare(getattr(pb, name).DESCRIPTOR, getattr(get_model_metadata_pb2, name).DESCRIPTOR)\n"
        "for name in ('ReloadConfigRequest', 'ReloadConfigResponse'):\n"
        "    compare(getattr(pb, name).DESCRIPTOR, getattr(model_management_pb2, name).DESCRIPTOR)\n"
        "compare(signatures.SignatureDefMap.DESCRIPTOR, get_model_metadata_pb2.SignatureDefMap.DESCRIPTOR)\n"
        "compare(signatures.SavedModel.DESCRIPTOR, saved_model_pb2.SavedModel.DESCRIPTOR)\n"
        "print(count)"
    )
    assert int(run_script(script)) > 60


def test_services_and_methods_have_the_official_names() -> None:
    script = IMPORT_OFFICIAL + (
        "from encoders.image.prediction_service import GET_MODEL_METADATA, GET_MODEL_STATUS, PREDICT, RELOAD_CONFIG\n"
        "def path(m): return f'/{m.containing_service.full_name}/{m.name}'\n"
        "predict = prediction_service_pb2.DESCRIPTOR.services_by_name['PredictionService']\n"
        "status = model_service_pb2.DESCRIPTOR.services_by_name['ModelService']\n"
        "assert path(predict.methods_by_name['Predict']) == PREDICT\n"
        "assert path(predict.methods_by_name['GetModelMetadata']) == GET_MODEL_METADATA\n"
        "assert path(status.methods_by_name['GetModelStatus']) == GET_MODEL_STATUS\n"
        "assert path(status.methods_by_name['HandleReloadConfigRequest']) == RELOAD_CONFIG"
    )
    run_script(script)


def test_requests_are_byte_identical_to_the_official_messages_in_both_directions() -> None:
    script = IMPORT_OFFICIAL + (
        "import numpy as np\n"
        "from encoders.image.prediction_service import pb, to_array, to_tensor\n"
        "values = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)\n"
        "ours = pb.PredictRequest(inputs={'images': to_tensor(values)}, output_filter=['features'])\n"
        "ours.model_spec.name, ours.model_spec.signature_name = 'mobilenet', 'serving_default'\n"
        "ours.model_spec.version.value = 7\n"
        "theirs = predict_pb2.PredictRequest()\n"
        "theirs.model_spec.name, theirs.model_spec.signature_name = 'mobilenet', 'serving_default'\n"
        "theirs.model_spec.version.value = 7\n"
        "theirs.output_filter.append('features')\n"
        "t = theirs.inputs['images']; t.dtype = 4; t.tensor_content = values.tobytes()\n"
        "for n in values.shape: t.tensor_shape.dim.add(size=n)\n"
        "wire = theirs.SerializeToString(deterministic=True)\n"
        "assert ours.SerializeToString(deterministic=True) == wire\n"
        "read = pb.PredictRequest.FromString(wire)\n"
        "assert (to_array(read.inputs['images']) == values).all()\n"
        "t.half_val.append(3); t.variant_val.add()\n"  # Fields that our messages leave out are skipped, not an error.
        "assert pb.TensorProto.FromString(t.SerializeToString()).tensor_content == values.tobytes()"
    )
    run_script(script)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64])
def test_an_array_round_trips_through_a_tensor(dtype: Any) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    result = to_array(to_tensor(values))
    np.testing.assert_array_equal(result, values)
    assert result.dtype == dtype


def test_an_array_in_fortran_order_is_sent_in_row_order() -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(to_array(to_tensor(values)), values)


def test_values_are_also_read_from_the_repeated_field_of_their_type() -> None:
    two = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=2)])
    floats = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=two, float_val=[0.5, 2])
    small = pb.TensorProto(dtype=pb.DT_UINT8, tensor_shape=two, int_val=[0, 255])
    assert to_array(floats).tolist() == [0.5, 2]
    assert to_array(small).tolist() == [0, 255]
    assert to_array(to_string_tensor([b"a", b"b"])).tolist() == [b"a", b"b"]


def test_an_array_without_rows_round_trips() -> None:
    assert to_array(to_tensor(np.empty((0, 3), np.float32))).shape == (0, 3)
    assert to_array(to_string_tensor([])).shape == (0,)


def tensor_of_shape(*sizes: int, **values: Any) -> pb.TensorProto:
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])
    return pb.TensorProto(tensor_shape=shape, **values)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (tensor_of_shape(2, 2, dtype=pb.DT_UINT8, tensor_content=b"abc"), "do not match the shape"),
        (tensor_of_shape(1 << 40, 1 << 40, dtype=pb.DT_UINT8, int_val=[1]), "do not match the shape"),
        (tensor_of_shape(-1, dtype=pb.DT_UINT8, tensor_content=b"abc"), "shape is unknown"),
        (tensor_of_shape(1, dtype=pb.DT_FLOAT, tensor_content=b"abcde"), "not a multiple"),
        (tensor_of_shape(1, dtype=pb.DT_UINT8, int_val=[256]), "0..255"),
        (tensor_of_shape(1, dtype=pb.DT_UINT8, int_val=[-1]), "0..255"),
        (tensor_of_shape(1, dtype=19), "type 19"),
        (tensor_of_shape(1), "invalid"),
        (pb.TensorProto(dtype=pb.DT_UINT8, tensor_shape=pb.TensorShapeProto(unknown_rank=True)), "shape is unknown"),
    ],
)
def test_an_inconsistent_tensor_is_refused(proto: pb.TensorProto, reason: str) -> None:
    with pytest.raises(BadTensor, match=reason):
        to_array(proto)


def test_a_type_is_named_as_in_numpy() -> None:
    assert type_name(pb.DT_UINT8) == "uint8"


@pytest.mark.slow
def test_tensorflow_and_its_stubs_import_after_ours() -> None:
    run_script(
        "from encoders.image.prediction_service import pb\n"
        "import tensorflow as tf\n"
        "from tensorflow_serving.apis import prediction_service_pb2_grpc, predict_pb2\n"
        "assert tf.constant([1]).numpy().tolist() == [1]\n"
        "assert predict_pb2.PredictRequest is not pb.PredictRequest\n"
    )


@pytest.mark.slow
def test_tensorflow_and_its_stubs_import_before_ours() -> None:
    run_script(
        "import tensorflow as tf\n"
        "from tensorflow_serving.apis import predict_pb2\n"
        "import numpy as np\n"
        "from encoders.image.prediction_service import pb, to_tensor\n"
        "official = predict_pb2.PredictRequest.FromString(\n"
        "    pb.PredictRequest(inputs={'x': to_tensor(np.arange(3.0))}).SerializeToString())\n"
        "assert tf.make_ndarray(official.inputs['x']).tolist() == [0, 1, 2]\n"
    )
