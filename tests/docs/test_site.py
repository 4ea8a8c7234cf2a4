"""The site builds without a warning and asks the network for nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.settings import ROOT


@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"(https?://[^\"]*)\"", page.read_text(encoding="utf-8"))
        loaded += re.findall(r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"(https?://[^\"]*)\"", page.read_text("utf-8"))
        assert not loaded, (page.name, loaded)
