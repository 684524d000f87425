"""The scikit-learn estimator: its contract on (n, H, W) arrays, and that it trains what the training command trains."""

import copy
import doctest
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from conftest import XRAYS
from PIL import Image
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

import fastsquid
from fastsquid import train
from fastsquid.config import preset
from fastsquid.data import read_image
from fastsquid.errors import DivergedError, UserError
from fastsquid.estimator import AnomalyDetector

NORMAL = sorted((XRAYS / "train" / "NORMAL").iterdir())
X = np.stack([read_image(path, 64) for path in NORMAL])  # uint8 (8, 64, 64)
# No crop: X has the model's size already, and what is cut out of it would be resized and rounded once more.
CONFIG = dict(width=4, slots=8, discriminator_width=16, batch_size=5, lr=1e-3, crop=False)


def tiny(**parameters):
    return AnomalyDetector(**{"epochs": 1, "config": CONFIG, "device": "cpu", **parameters})


@pytest.fixture(scope="module")
def fitted():
    return tiny(epochs=2).fit(X)


def weights(detector):
    return detector.scorer_.detector.state_dict()


def same_weights(one, other):
    """Whether two fitted estimators have the same bits."""
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What scikit-learn asks of an estimator, on images


def test_clone(fitted):
    copied = clone(fitted)
    assert copied is not fitted and copied.get_params() == fitted.get_params() and not hasattr(copied, "scorer_")
    assert copied.config is not fitted.config
    assert same_weights(copied.fit(X), fitted)


def test_get_and_set_params():
    detector = AnomalyDetector()
    assert detector.get_params() == dict(
        preset=None, epochs=None, config=None, contamination=0.05, random_state=0, device="auto", init=None
    )
    assert detector.set_params(epochs=3, config={"width": 4}, random_state=7) is detector
    assert (detector.epochs, detector.config, detector.random_state) == (3, {"width": 4}, 7)
    assert detector._config() == preset("fastsquid-small", epochs=3, width=4, select="last")
    with pytest.raises(ValueError, match="'width'"):
        detector.set_params(width=4)


def test_nothing_is_set_in_init():
    parameters = dict(
        preset="nothing",
        epochs=object(),
        config=object(),
        contamination=object(),
        random_state=object(),
        device=object(),
        init=object(),
    )
    detector = AnomalyDetector(**parameters)  # nor checked: that is done in fit
    assert set(vars(detector)) == set(parameters)
    assert all(vars(detector)[name] is value for name, value in parameters.items())


@pytest.mark.parametrize("method", ["score_samples", "decision_function", "predict"])
def test_unfitted_error(method):
    with pytest.raises(NotFittedError, match="AnomalyDetector"):
        getattr(tiny(), method)(X)


def test_fit_returns_self():
    detector = tiny()
    assert detector.fit(X[:2], y=np.ones(2)) is detector


def test_a_broken_file_is_not_called_normal(fitted, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for method in (fitted.predict, fitted.score_samples, fitted.fit):
        with pytest.raises(ValueError, match=r"^image 1\b|b\.png"):
            method(files)


def test_fit_is_idempotent(fitted):
    """Whatever was fitted before, and whatever the global random state; which it leaves as it was."""
    again = tiny(epochs=1, random_state=5).fit(X[:3]).set_params(epochs=2, random_state=0)
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again.fit(X)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    assert same_weights(again, fitted) and again.offset_ == fitted.offset_
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    assert not same_weights(tiny(epochs=2, random_state=5).fit(X), fitted)


def test_input_is_unchanged():
    images = X.copy()
    images.flags.writeable = False
    detector = tiny().fit(images)
    for method in (detector.score_samples, detector.decision_function, detector.predict):
        method(images)
    np.testing.assert_array_equal(images, X)
    floats = X / 255
    detector.fit(floats).predict(floats)
    np.testing.assert_array_equal(floats, X / 255)


METHODS = pytest.mark.parametrize("method", ["score_samples", "decision_function"])


@METHODS
def test_subset_invariance(fitted, method):
    together = getattr(fitted, method)(X)
    for part in (slice(0, 1), slice(2, 5), [7, 1], X.mean((1, 2)) > X.mean()):
        np.testing.assert_allclose(getattr(fitted, method)(X[part]), together[part], atol=1e-5)


@METHODS
def test_order_invariance(fitted, method):
    together, order = getattr(fitted, method)(X), np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(getattr(fitted, method)(X[order]), together[order], atol=1e-5)
    assert np.ptp(together) > 1e-3


@pytest.mark.parametrize("method", ["fit", "score_samples", "decision_function", "predict", "fit_predict"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused(fitted, method, value):
    images = X / 255
    images[5, 3, 3] = value
    with pytest.raises(ValueError, match=r"\bimage 5\b.*\bfinite\b"):
        getattr(copy.copy(fitted), method)(images)


@pytest.mark.parametrize(
    "copied",
    [lambda detector: pickle.loads(pickle.dumps(detector)), copy.deepcopy],
    ids=["pickle", "deepcopy"],
)
def test_pickle(fitted, copied):
    other = copied(fitted)
    assert other.scorer_ is not fitted.scorer_ and other.offset_ == fitted.offset_
    for method in ("score_samples", "decision_function", "predict"):
        np.testing.assert_array_equal(getattr(other, method)(X), getattr(fitted, method)(X))
    np.testing.assert_array_equal(other.scorer_.heatmap(X), fitted.scorer_.heatmap(X))
    unfitted = copied(tiny())
    assert unfitted.get_params() == tiny().get_params()
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_joblib(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "detector.joblib")
    other = joblib.load(tmp_path / "detector.joblib")
    np.testing.assert_array_equal(other.score_samples(X), fitted.score_samples(X))
    assert same_weights(other.fit(X), fitted)


# What it trains, and what its numbers are


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the training command makes of the same images, unlabeled, and the same configuration and seed."""
    folder = tmp_path_factory.mktemp("estimator")
    shutil.copytree(XRAYS / "train" / "NORMAL", folder / "images")
    options = [part for name, value in CONFIG.items() for part in (f"--{name}", str(value).lower())]
    arguments = ["--data", str(folder / "images"), "--preset", "fastsquid-small", "--epochs", "2", "--select", "last"]
    train.main(
        [*arguments, *options, "--precision", "fp32", "--seed", "3", "--device", "cpu", "--out", str(folder / "run")]
    )
    return fastsquid.load(folder / "run", device="cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_the_training_command_gives_the_same_bits(run, dtype):
    images = {np.uint8: X, np.uint16: X.astype(np.uint16) * 257, np.float64: X / 255}[dtype]
    detector = tiny(epochs=2, random_state=np.int64(3)).fit(images)
    ours, theirs = weights(detector), run.detector.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert detector.scorer_.calibration == run.calibration
    np.testing.assert_array_equal(detector.score_samples(images), -run.score(X))
    np.testing.assert_array_equal(detector.scorer_.heatmap(images), run.heatmap(X))


def test_what_is_cropped_is_what_the_command_crops(tmp_path):
    """From bordered files to the same scores, in the command and in the estimator, whatever the images are given as."""
    pixels = [np.pad(np.asarray(Image.open(path).convert("L")), 30) for path in NORMAL]
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{path.stem}.png" for path in NORMAL]
    for path, image in zip(paths, pixels):
        Image.fromarray(image).save(path)
    options = [part for name, value in CONFIG.items() if name != "crop" for part in (f"--{name}", str(value))]
    arguments = ["--data", tmp_path / "images", "--preset", "fastsquid-small", "--epochs", 1, "--out", tmp_path / "run"]
    train.main([str(part) for part in (*arguments, *options, "--precision", "fp32", "--device", "cpu")])
    run = fastsquid.load(tmp_path / "run", device="cpu")
    detector = tiny(config={**CONFIG, "crop": True})
    scores = detector.fit(pixels).score_samples(pixels)
    np.testing.assert_array_equal(scores, -run.score(paths))
    np.testing.assert_array_equal(scores, detector.score_samples(paths))
    assert detector.offset_ == np.percentile(scores, 5)
    uncropped = tiny().fit(pixels)
    assert np.abs(uncropped.score_samples(pixels) - scores).min() > 0


def test_numbers_are_their_definitions(fitted):
    """fastsquid's score adds the logits of the standardised image and its drawing, which is in the image's exposure."""
    images = torch.tensor(X[:, None] / 255, dtype=torch.float32)
    deviation, mean = torch.std_mean(images, (1, 2, 3), correction=0, keepdim=True)
    seen = (0.5 + 0.2 * (images - mean) / deviation).clamp(0, 1) * 2 - 1
    detector = fitted.scorer_.detector
    with torch.no_grad():
        drawn = detector.generator(seen).student
        logits = [detector.discriminator(judged, norm="image") for judged in (drawn, seen)]
    usual = [(mean.item(), deviation.item()) for mean, deviation in detector.usual]
    expected = sum((logit + mean) / deviation for logit, (mean, deviation) in zip(logits, usual))
    samples = fitted.score_samples(X)
    assert samples.shape == (8,) and samples.dtype == np.float64
    # In deviations, of which a run of a second has very small ones: rounding shows.
    np.testing.assert_allclose(samples, expected, atol=0.05)
    drawn = (((drawn + 1) / 2 - 0.5) / 0.2 * deviation + mean).clamp(0, 1)
    np.testing.assert_allclose(fitted.scorer_.reconstruct(X), drawn[:, 0], atol=1e-5)
    np.testing.assert_array_equal(fitted.decision_function(X), samples - fitted.offset_)
    predicted = fitted.predict(X)
    assert predicted.dtype == np.int64
    np.testing.assert_array_equal(predicted, [-1 if sample < fitted.offset_ else 1 for sample in samples])


@pytest.mark.parametrize("contamination, abnormal", [(0, 0), (0.25, 2), (0.5, 4), (np.float64(0.05), 1)])
def test_contamination_is_the_share_of_training_images_called_abnormal(contamination, abnormal):
    detector = tiny(contamination=contamination)
    predicted = detector.fit_predict(X)
    assert (predicted == -1).sum() == abnormal and set(predicted) <= {1, -1}
    assert detector.offset_ == pytest.approx(np.percentile(detector.score_samples(X), 100 * contamination), abs=1e-9)
    np.testing.assert_array_equal(detector.predict(X), predicted)


def test_images_of_any_kind_and_size(fitted):
    expected = fitted.score_samples(NORMAL)
    assert expected.shape == (8,)
    np.testing.assert_allclose(fitted.score_samples(X), expected, atol=1e-5)
    for images in (X[:, None], torch.from_numpy(X), list(X), X.astype(np.uint16) * 257):
        np.testing.assert_array_equal(fitted.score_samples(images), fitted.score_samples(X))
    assert same_weights(tiny(epochs=2).fit(NORMAL), fitted)
    assert tiny().fit(np.random.default_rng(0).random((3, 30, 40))).score_samples(X).shape == (8,)


def test_random_state():
    def fit(random_state):
        return tiny(random_state=random_state).fit(X[:3])

    assert same_weights(fit(np.random.RandomState(3)), fit(np.random.RandomState(3)))
    np.random.seed(0)
    assert not same_weights(fit(None), fit(None))  # drawn from NumPy's


@pytest.mark.parametrize("folder", ["", "train", "train/PNEUMONIA", "val"])
def test_a_folder_with_sick_images_is_rejected(folder):
    with pytest.raises(UserError, match=r"not known which images .* are healthy.*fit count as normal"):
        tiny().fit(XRAYS / folder)
    with pytest.raises(UserError, match="not known which images"):
        tiny().fit([str(XRAYS / "train" / "NORMAL"), str(XRAYS / folder)])


def test_a_folder_of_healthy_images_is_fitted():
    assert tiny().fit(XRAYS / "train" / "NORMAL").scorer_ is not None


def test_fit_in_a_thread(fitted):
    """Where no signal handler can be set."""
    with ThreadPoolExecutor(1) as pool:
        assert same_weights(pool.submit(tiny(epochs=2).fit, X).result(), fitted)


# In scikit-learn


def test_what_scikit_learn_takes_it_for(fitted):
    assert is_outlier_detector(fitted)
    tags = get_tags(fitted).input_tags
    assert tags.three_d_array and not tags.two_d_array
    assert "AnomalyDetector(" in repr(fitted)


def test_cross_validation():
    labels = np.array([1, -1] * 4)
    aucs = cross_val_score(tiny(), X, labels, cv=2, scoring="roc_auc", error_score="raise")
    assert aucs.shape == (2,) and ((0 <= aucs) & (aucs <= 1)).all()


def test_grid_search():
    search = GridSearchCV(
        tiny(),
        {"epochs": np.array([1]), "config": [CONFIG, {**CONFIG, "lr": np.float64(1e-2)}]},
        scoring=lambda detector, images, y=None: detector.score_samples(images).mean(),
        cv=2,
        error_score="raise",
    ).fit(X)
    assert len(search.cv_results_["params"]) == 2 and np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == (8,)
    assert search.best_estimator_.scorer_.detector.config.lr == search.best_params_["config"]["lr"]


def test_pipeline(fitted):
    pipeline = make_pipeline(FunctionTransformer(lambda images: images / 255), tiny(epochs=2)).fit(X)
    np.testing.assert_array_equal(pipeline.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(pipeline.score_samples(X), fitted.score_samples(X))
    assert pipeline.set_params(anomalydetector__epochs=1)["anomalydetector"].epochs == 1


# What is refused


@pytest.mark.parametrize(
    "parameters, message",
    [
        (dict(contamination=0.6), "^contamination = 0.6 .* 0 .* 0.5$"),
        (dict(contamination=np.nan), "^contamination = nan "),
        (dict(contamination="auto"), "^contamination = 'auto' "),
        (dict(preset="fastsquid-smal"), r"'fastsquid-smal'.* fastsquid-small\b"),
        (dict(preset=""), "^unknown preset ''"),
        (dict(init="zhanlab"), r"^zhanlab .*\bzhanglab\b"),
        (dict(init="nowhere"), "^nowhere is not a run folder"),
        (dict(config={"slot": 3}), r"'slot'.* slots\b"),
        (dict(config={"top_k": 500}), "top_k = 500 .*slots = 100"),
        (dict(config={"select": "auc"}), r"\bconfig .*'select'"),
        (dict(config={"contamination": 0.1}), r"\bconfig .*'contamination'"),
        (dict(config="width 4"), r"config = 'width 4' .*\bdict\b"),
        (dict(epochs=0), "epochs = 0 .* 1$"),
        (dict(epochs=1.5), r"epochs = 1.5 .*\bint$"),
        (dict(random_state=-1), "random_state = -1 .* 0 "),
        (dict(random_state="seed"), "^'seed' "),
        (dict(device="cuda:77"), "device 'cuda:77' "),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        AnomalyDetector(**parameters).fit(X)


@pytest.mark.parametrize(
    "images, message",
    [
        (X.reshape(8, -1), r"\bX .*\(8, 4096\).*\(n, H, W\).*X\[None\]"),
        (torch.zeros(64, 64), r"\bX .*\(64, 64\)"),
        (X[:0], "no images"),
        ([], "no images"),
        (X.astype(int), r"\bimage 0\b.*\bint64\b"),
        (np.repeat(X[..., None], 3, -1), r"\(8, 64, 64, 3\).*\bPIL\b"),
        (X.astype(float), rf"\bimage 0\b.* {X[0].min()} .*\b{X[0].max()}\b"),
    ],
)
def test_what_is_no_array_of_images(fitted, images, message):
    for method in (copy.copy(fitted).fit, fitted.score_samples, fitted.predict):
        with pytest.raises(ValueError, match=message):
            method(images)


def test_a_training_that_diverges():
    with pytest.raises(DivergedError, match=r"\bstep \d+ of epoch \d+\b.*\blr\b.*\bconfig\b"):
        tiny(epochs=3, config={**CONFIG, "lr": 1e30}).fit(X)


# The package


def test_it_is_imported_when_it_is_asked_for():
    assert fastsquid.AnomalyDetector is AnomalyDetector


def test_examples_in_docstrings():
    (example,) = doctest.DocTestFinder(recurse=False).find(AnomalyDetector, globs=vars(fastsquid.estimator).copy())
    assert doctest.DocTestRunner().run(example) == (0, 5)
