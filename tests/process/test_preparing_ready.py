"""Files that are served as they lie must not need the libraries that convert others."""

import json
import subprocess
import sys

SCRIPT = """
import sys
from app.preparing.job import PrepareJob
from app.preparing.prepare import prepare
prepare(PrepareJob(*sys.argv[1:3], "scores", "classify", "openvino_encoder", "onnx", "int8"), print)
heavy = {"torch", "transformers", "optimum", "nncf", "openvino", "tokenizers"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_a_ready_made_graph_is_described_without_any_library(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
    config = {"max_position_embeddings": 8, "architectures": ["BertForSequenceClassification"]}
    (source / "config.json").write_text(json.dumps(config))
    for name in ("model.onnx", "tokenizer.json"):
        (source / name).write_text("{}")
    command = [sys.executable, "-c", SCRIPT, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"]["model"] == str(source / "model.onnx")
    assert manifest["task_options"]["labels"] == ["LABEL_0", "LABEL_1"]
