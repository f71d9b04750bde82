"""The command line without Flower, cryptography, dp-accounting and ONNX, as after a plain install: the rest works, and what needs them says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib.util, sys
from importlib.abc import MetaPathFinder

EXTRAS = {"flwr", "cryptography", "dp_accounting", "fastapi", "uvicorn", "prometheus_client", "onnx", "onnxscript", "onnxruntime"}

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in EXTRAS else found(name, package)

from metabayfl import cli

federating = (["federate", "status", "nowhere"], ["federate", "init", "nowhere", "--sites", "a,b"])
serving = (["serve", "--strategy", "nowhere", "--store", "nowhere"], ["token", "list", "--store", "store"])
exporting = (["export", "--posterior", "nowhere"], ["bench", "--onnx", "nowhere"])
for words in (["evaluate", "--help"], *federating, *serving, *exporting):
    print(words[0], cli.main(words))
assert not EXTRAS & set(sys.modules)
"""


def test_a_plain_install_has_every_command_and_names_the_extra_that_is_missing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluate 0" in done.stdout
    assert done.stdout.count("federate 2") == 2
    assert done.stderr.count("pip install 'metabayfl[flower]'") == 1
    assert done.stderr.count("pip install 'metabayfl[serve]'") == 1
    assert "serve 2" in done.stdout
    assert "token 0" in done.stdout
    assert "export 2" in done.stdout
    assert "bench 2" in done.stdout
    assert done.stderr.count("pip install 'metabayfl[export]'") == 2
    assert "Traceback" not in done.stderr


def test_help_tokens_and_a_federation_status_do_not_wait_for_pytorch(tmp_path: Path) -> None:
    words = (["--help"], ["train", "--help"], ["token", "new", "--store", "store", "--operator"], ["federate", "status", "nowhere"], ["nonsense"])
    script = f"import sys\nfrom metabayfl import cli\nprint(*(cli.main(each) for each in {words!r}))\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines()[-2:] == ["0 0 0 2 2", "False"], done.stderr
