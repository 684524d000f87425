"""`python docs/first_picture.py`: draw the README's picture, six X-rays of this repository and the shipped model."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import fastsquid
from fastsquid.data import find_images, read_image

ROOT = Path(__file__).resolve().parents[1]
DEVIATIONS = 5  # that are the brightest color

run = fastsquid.load("zhanglab", device="cpu")
paths = find_images(ROOT / "tests" / "data" / "xrays" / "val")
size = run.image_size
scores, maps, drawn = run.score(paths), run.heatmap(paths), run.reconstruct(paths)
threshold, _ = run.thresholds[0]

figure, axes = plt.subplots(3, len(paths), figsize=(10, 5.6), layout="constrained")
for column, (path, score, heat, picture) in enumerate(zip(paths, scores, maps, drawn)):
    xray = read_image(path, size, crop=run.crop)
    known = "healthy" if path.parent.name == "NORMAL" else "pneumonia"
    axes[0, column].set_title(f"{known}\nscore {score:.1f}", fontsize=12, weight="bold" if score > threshold else None)
    for row, gray in enumerate((xray / np.iinfo(xray.dtype).max, picture, xray / np.iinfo(xray.dtype).max)):
        axes[row, column].imshow(gray, cmap="gray", vmin=0, vmax=1)
        axes[row, column].set(xticks=[], yticks=[])
    share = 0.7 * np.clip(heat / DEVIATIONS, 0, 1)
    axes[2, column].imshow(heat, cmap="inferno", vmin=0, vmax=DEVIATIONS, alpha=share)
for row, name in enumerate(("X-ray", "reconstruction from\nhealthy anatomy", "anomaly map")):
    axes[row, 0].set_ylabel(name, fontsize=12)
colors = plt.cm.ScalarMappable(plt.Normalize(0, DEVIATIONS), "inferno")
bar = figure.colorbar(colors, ax=axes[2], fraction=0.02, pad=0.01)
bar.set_label("standard deviations\nabove healthy", fontsize=10)
figure.savefig(ROOT / "docs" / "pictures" / "first.png", dpi=90)
