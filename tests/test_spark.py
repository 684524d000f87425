"""The example for Spark in docs/distributed.md, on one local core. It is skipped without pyspark, which is no extra."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS, run_example

pytest.importorskip("pyspark")
from pyarrow import dataset  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

from fastsquid import load  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Spark's own
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]


@pytest.fixture
def spark(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master("local[1]").config("spark.driver.host", "127.0.0.1")
    session = builder.config("spark.ui.enabled", "false").config("spark.log.level", "ERROR").getOrCreate()
    yield session
    session.stop()


def test_the_page_has_a_pipeline_of_spark(spark, unbroken, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "scores"
    shutil.copytree(XRAYS / "test", folder / "a #1")
    (folder / "bad.png").write_bytes(b"-")
    run_example("Spark", {"/archive/2019-01": folder, "/models/mine": unbroken, "/scores/2019-01": out}, spark=spark)
    table = dataset.dataset(out, format="parquet").to_table()
    rows = {row["name"].removeprefix("file:"): row for row in table.to_pylist()}
    assert len(rows) == len(table) and "bad.png" in rows.pop(str(folder / "bad.png"))["error"]
    assert rows.keys() == {str(path) for path in (folder / "a #1").iterdir()}
    scores = load(unbroken).score(list(rows))
    np.testing.assert_allclose([row["score"] for row in rows.values()], scores, rtol=1e-4)
    assert {(row["error"], row["above_threshold"].__class__) for row in rows.values()} == {(None, bool)}
