"""Trains a scikit-learn pipeline, exports it with skl2onnx and writes a catalogue that serves it.

    pip install scikit-learn skl2onnx
    python examples/iris/export.py /srv/models/iris
    MODEL_CATALOG=/srv/models/iris/catalog.yaml DEFAULT_MODEL=iris GRPC_PORT=8001 make run

Operators of classical machine learning (`ai.onnx.ml`) are written as plain arithmetic, which every
engine knows; the graph gives the chance of each species.
"""

import hashlib
import sys
from pathlib import Path

from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

CATALOG = """\
artefacts:
  iris:
    origin: scikit-learn pipeline, examples/iris/export.py
    runtime: openvino_encoder
    kind: tensors
    files:
      model:
        source: file://iris.onnx
        sha256: {sha256}
        size_bytes: {size_bytes}

models:
  iris:
    v1:
      description: Chances of setosa, versicolor and virginica, of four measures in cm.
      task: tensors
      artefact: iris
"""


def trained() -> Pipeline:
    measures, species = load_iris(return_X_y=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(measures, species)


def exported(pipeline: Pipeline) -> bytes:
    graph = to_onnx(
        pipeline,
        initial_types=[("features", FloatTensorType([None, 4]))],
        options={"zipmap": False},
        black_op={"LinearClassifier", "Scaler", "Normalizer"},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    chances: bytes = select_model_inputs_outputs(graph, "probabilities").SerializeToString()
    return chances


def write(folder: Path) -> Pipeline:
    """The graph and its catalogue; the pipeline as it was trained."""
    pipeline = trained()
    graph = exported(pipeline)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "iris.onnx").write_bytes(graph)
    sha256 = hashlib.sha256(graph).hexdigest()
    catalog = CATALOG.format(sha256=sha256, size_bytes=len(graph))
    (folder / "catalog.yaml").write_text(catalog, encoding="utf-8")
    return pipeline


if __name__ == "__main__":
    write(Path(sys.argv[1]))
