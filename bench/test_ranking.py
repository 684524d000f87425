"""The ranking score alone, from a tensor and from JPEG files, beside the published order of work all the way.

`published` is SimSID's score: generator and teacher, then the discriminator image by image. Ours is `fastsquid`:
`ranking` is its default score, which needs the generator, `fast` the score of the image itself, which does not.
"""

import baselines
import numpy as np
import pytest
import torch
from cases import SMALLEST_MODEL
from PIL import Image
from timing import Variant

from fastsquid.api import Scorer
from fastsquid.config import preset
from fastsquid.data.names import PATH_NAMES
from fastsquid.model.detector import Detector
from fastsquid.reporting.table import Scoring, write_table
from fastsquid.runs.records import RunRecord
from fastsquid.runs.trained import TrainedRun
from fastsquid.scoring.input_check import fit_check

PUBLISHED = preset("simsid", selection="published")
OURS = preset("fastsquid")
# {case: (published, ours, whether --fast, images)}
CASES = {
    "smallest": (SMALLEST_MODEL, SMALLEST_MODEL, True, 2),
    "ranking 32": (PUBLISHED, OURS, False, 32),
    "fast 32": (PUBLISHED, OURS, True, 32),
}
PARAMETERS = [pytest.param(case, marks=pytest.mark.smallest if case == "smallest" else ()) for case in CASES]
BATCH = 16  # of the published code
SIDE = 224  # of the JPEG files, pixels


@pytest.mark.parametrize("variant", ["published", "torch"])
@pytest.mark.parametrize("case", PARAMETERS)
def test_ranking_score(compare, device, case, variant):
    published, ours, fast, count = CASES[case]
    images = torch.rand(count, 1, ours.image_size, ours.image_size, device=device)
    variants = {"published": Published(published, device), "torch": Frozen(ours, fast, device)}
    compare(
        lambda names: {
            name: Variant(lambda i: None, lambda _, name=name: variants[name].score(images)) for name in names
        },
        images=count,
    )


@pytest.mark.parametrize("variant", ["published", "torch"])
@pytest.mark.parametrize("case", PARAMETERS)
def test_file_to_row(compare, device, tmp_path, case, variant):
    published, ours, fast, count = CASES[case]
    random, paths = np.random.default_rng(0), [tmp_path / f"{number}.jpeg" for number in range(count)]
    for path in paths:  # smooth, as an X-ray
        pixels = random.integers(0, 256, (14, 14), np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
    variants = {"published": Published(published, device), "torch": Frozen(ours, fast, device)}
    compare(
        lambda names: {
            name: Variant(lambda i: None, lambda _, name=name: variants[name].rows(paths)) for name in names
        },
        images=count,
    )


class Published:
    """The published scoring, in batches of 16, of files that Pillow reads and resizes."""

    def __init__(self, config, device):
        self.size, self.device = config.image_size, device
        self.detector = Detector(config, "torch").to(device).eval()
        self.generator = baselines.Generator(self.detector.generator).eval()
        self.detector.discriminator.train()

    def score(self, images):
        return torch.cat([baselines.scores(self.detector, self.generator, batch) for batch in images.split(BATCH)])

    def rows(self, paths):
        images = [Image.open(path).convert("L").resize((self.size, self.size)) for path in paths]
        images = torch.stack([torch.from_numpy(np.array(image))[None] / 255 for image in images])
        return [f"{path},{score}" for path, score in zip(paths, self.score(images.to(self.device)).tolist())]


class Frozen:
    """What `fastsquid.score` does once a run is loaded; `fast` is its --fast."""

    def __init__(self, config, fast, device):
        detector = Detector(config).to(device).eval().frozen()
        record = RunRecord(config, data=None, seed=0, fingerprint="")
        run = TrainedRun(detector, None, None, record, "last", 1, None, "")
        check = fit_check(torch.randint(256, (32, 1, config.image_size, config.image_size), dtype=torch.uint8))
        self.scorer = Scorer(run, None, fast, check)

    def score(self, images):
        return self.scorer.detector.scores(images, names=[self.scorer.score_name])[0]

    def rows(self, paths):
        scoring = Scoring(self.scorer, 64, PATH_NAMES)
        rows = (row for batch in scoring.batches([(path.name, path) for path in paths]) for row in batch)
        return write_table(paths[0].with_name("scores.csv"), scoring.columns, rows, scoring.names)
