"""The report in a real browser: what it shows, by mouse, keyboard and touch-sized screens, with the network off."""

import os
import re
import shutil

import numpy as np
import pytest
from conftest import XRAYS
from matplotlib import colormaps
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve
from test_report import parts, pictures

from fastsquid import report
from fastsquid.reporting.page import page

# Names that would run if they were markup. A name cannot hold a "/", but a folder's and a file's together do.
NASTY = "<img src=x onerror=document.title='ran'>.jpeg"
NASTY_CLASS = "<b onclick=alert(1)>OTHER"
NASTY_FOLDER = ("x<", "script><script>document.title='ran'<", "script>.jpeg")


def find_browser():
    """Paths of Chromium and its driver; without them the test fails where FASTSQUID_BROWSER is required, else skips."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (browser and driver):
        required = os.environ.get("FASTSQUID_BROWSER") == "required"
        (pytest.fail if required else pytest.skip)("no chromium and chromedriver here: install both to test reports")
    return browser, driver


@pytest.fixture(scope="module")
def browser():
    chromium, driver = find_browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def written(by_residual, tmp_path_factory):
    """A report of 14 images, of which one cannot be read, 5 are normal, 5 abnormal and 3 unlabeled."""
    folder = tmp_path_factory.mktemp("report") / "images"
    shutil.copytree(XRAYS / "val", folder)
    for source, *target in (
        ("train/PNEUMONIA/person1000_virus_1681.jpeg", "PNEUMONIA", "person9_virus_9.jpeg"),
        ("train/PNEUMONIA/person1000_bacteria_2931.jpeg", "PNEUMONIA", "person10_bacteria_2.jpeg"),
        ("train/NORMAL/IM-0115-0001.jpeg", "NORMAL", *NASTY_FOLDER),
        ("train/NORMAL/IM-0117-0001.jpeg", "NORMAL", "{{ data }}.jpeg"),
        ("test/0000.jpeg", NASTY),
        ("test/0001.jpeg", "0001.jpeg"),
        ("test/0002.jpeg", "0002.jpeg"),
    ):
        path = folder.joinpath(*target)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(XRAYS / source, path)
    (folder / "broken.png").write_bytes(b"")
    (folder / NASTY_CLASS).mkdir()
    (folder / "PNEUMONIA" / "person1127_bacteria_3068.jpeg").rename(folder / NASTY_CLASS / "1.jpeg")
    out = folder.parent / "report.html"
    assert report.main([str(by_residual), str(folder), "--out", str(out)]) == 1
    return out


class Shown:
    """A report in the browser, as a reader has it."""

    def __init__(self, browser, path, width=1280, height=2400):
        self.browser = browser
        self.cdp("Emulation.setEmulatedMedia", features=[])
        self.resize(width, height)
        self.cdp("Network.enable")
        self.cdp("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        browser.get(path.as_uri())
        self.settle()

    def cdp(self, command, **arguments):
        return self.browser.execute_cdp_cmd(command, arguments)

    def resize(self, width, height):
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def settle(self):
        """Waits for what the page does in the next frames: decoding and drawing."""
        self.browser.execute_async_script(
            "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 60)"
        )

    def __getitem__(self, identifier):
        return self.browser.find_element("id", identifier)

    def text(self, identifier):
        return self.run("return document.getElementById(arguments[0]).textContent", identifier)

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()
        self.settle()

    def choose(self, identifier, value):
        """Picks an option of a select as a reader does."""
        from selenium.webdriver.support.ui import Select

        Select(self[identifier]).select_by_value(value)
        self.settle()

    def type(self, identifier, text):
        from selenium.webdriver.common.keys import Keys

        self[identifier].send_keys(Keys.CONTROL + "a" + Keys.NULL, Keys.DELETE, text)
        self.settle()

    @property
    def names(self):
        """Of the images in the list, in its order; all of them, in a window high enough."""
        return self.run("return [...document.querySelectorAll('.card .name')].map((name) => name.textContent)")

    def pixels(self, selector):
        """(S, S, 3) in [0, 1] of a canvas."""
        flat = self.run(
            """const canvas = document.querySelector(arguments[0]);
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, [...data]];""",
            selector,
        )
        return np.reshape(flat[2], (flat[0], flat[1], 4))[..., :3] / 255

    def errors(self):
        return [entry for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def shown(browser, written):
    shown = Shown(browser, written)
    yield shown
    assert not shown.errors()


@pytest.fixture(scope="module")
def data(written):
    return parts(written)[0]


@pytest.fixture(scope="module")
def worst_first(data):
    """Names of the images that could be read."""
    scored = [(score, name) for score, name in zip(data["scores"], data["names"]) if score is not None]
    return [name for _, name in sorted(scored, reverse=True)]


def overlaid(strip, opacity=1.0):
    """X-ray, reconstruction and map as the page should draw them, (L, L, 3); matplotlib's colours."""
    xray, *others = pictures(strip)
    drawn, heat = (
        np.asarray(Image.fromarray(other.astype(np.float32)).resize(xray.shape, Image.Resampling.BILINEAR))
        for other in others
    )
    alpha = opacity * 0.7 * heat[..., None]
    grey = np.repeat(xray[..., None], 3, 2)
    return {
        "xray": grey,
        "reconstruction": opacity * np.repeat(drawn[..., None], 3, 2) + (1 - opacity) * grey,
        "map": alpha * colormaps["inferno"](heat)[..., :3] + (1 - alpha) * grey,
    }


def close(found, expected):
    return found.shape == expected.shape and np.abs(found - expected).mean() < 0.003


def test_a_missing_browser(monkeypatch):
    """Fails where it is required, and skips with the reason elsewhere."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("FASTSQUID_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="no chromium"):
        find_browser()
    monkeypatch.delenv("FASTSQUID_BROWSER")
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        find_browser()


def test_it_loads_offline_worst_first(shown, worst_first):
    assert shown.browser.title == "fastsquid report: images" and shown["title"].text == "Anomaly report: images"
    assert "no diagnosis" in shown.browser.find_element("css selector", ".warning strong").text
    assert re.search(r"\b8 images\b.*\bxrays\b.*\bchildren\b", shown["trained-on"].text)
    assert shown.names == [*worst_first, "broken.png"] and shown["count"].text == "14 of 14 images"
    loaded = shown.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_a_card_says_what_is_known(shown, data, worst_first):
    threshold = data["thresholds"][0][0]
    for position, name in enumerate(worst_first):
        index = data["names"].index(name)
        card = shown[f"image-{index}"]
        score, side = [part.text for part in card.find_elements("css selector", ".score > *")]
        label = card.find_element("css selector", ".label").text
        assert float(score) == pytest.approx(data["scores"][index], rel=1e-3)
        assert side == ("above threshold" if data["scores"][index] >= threshold else "below threshold")
        assert label == {0: "labeled normal", 1: "labeled abnormal", None: "not labeled"}[data["labels"][index]]
        percentile = card.find_element("css selector", ".percentile").text
        assert re.fullmatch(rf"{data['percentiles'][index]}(st|nd|rd|th) percentile of 3 normal .*", percentile)
        assert card.get_attribute("aria-posinset") == str(position + 1)
    broken = shown[f"image-{data['names'].index('broken.png')}"]
    assert "empty)" in broken.text and broken.get_attribute("data-side") == "none"
    assert broken.value_of_css_property("border-left-style") == "dashed"
    assert "1 of 14 images" in shown["unscored-note"].text


def test_the_meaning_of_the_map_stands_where_it_is_shown(shown, data):
    shown[f"image-{data['scores'].index(max(filter(None, data['scores'])))}"].click()
    meanings = shown.browser.find_elements("css selector", ".map-meaning")
    assert len(meanings) == 2 and all(data["map"] in meaning.text for meaning in meanings)


@pytest.mark.parametrize("width", [360, 700, 1000, 1280, 1400, 1920])
def test_no_text_of_a_card_is_cut(browser, written, tmp_path, width):
    """Names may be: the whole name is shown where the pointer rests on it, and in the large view."""
    data, strips = parts(written)
    many = {**data, "normal": 12345, "percentiles": [100] * len(data["names"])}
    (tmp_path / "r.html").write_text(page(many, strips), encoding="utf-8")
    shown = Shown(browser, tmp_path / "r.html", width, 900)
    cut = shown.run(
        """const texts = [...document.querySelectorAll(".card p:not(.name)")];
        return texts.filter((text) => text.scrollWidth > text.clientWidth).map((text) => text.textContent);"""
    )
    assert cut == [] and shown.names


def test_ordinals(shown, browser, written, tmp_path):
    """1st, 2nd, 3rd, 4th; 11th to 13th; 21st."""
    expected = ["0th", "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "93rd", "100th"]
    data, strips = parts(written)
    numbers = [int(text[:-2]) for text in expected]
    changed = {**data, "names": [str(n) for n in numbers], "scores": [-n for n in numbers], "percentiles": numbers}
    changed |= {"labels": [None] * 12, "errors": {}, "metrics": None}
    path = tmp_path / "r.html"
    path.write_text(page(changed, [max(strips)] * 12), encoding="utf-8")
    shown = Shown(browser, path)
    texts = [element.text for element in browser.find_elements("css selector", ".card .percentile")]
    assert [text.split()[0] for text in texts] == expected
    assert not shown["labels-panel"].is_displayed() and not shown["curves-panel"].is_displayed()
    assert not shown["label-filter"].is_displayed()


def test_images_unlike_the_training_images_are_marked(browser, written, tmp_path, worst_first):
    data, strips = parts(written)
    marked = worst_first[3]
    ratios = [None if score is None else 1.0 for score in data["scores"]]
    ratios[data["names"].index(marked)] = 1.756
    path = tmp_path / "r.html"
    for changed in (
        {"unlike": ratios, "unlike_note": "1 of 13 images are unlike"},
        {"unlike": None, "unlike_note": ""},
    ):
        path.write_text(page({**data, **changed}, strips), encoding="utf-8")
        shown = Shown(browser, path)
        badges = [badge.text for badge in browser.find_elements("css selector", ".card .unlike")]
        assert shown["unlike-note"].is_displayed() == bool(changed["unlike"])
        shown.choose("side-filter", "unlike")
        if changed["unlike"]:
            assert len(badges) == 1 and "unlike" in badges[0] and "(1.76)" in badges[0]
            assert shown.names == [marked] and "1 of 13 images" in shown["unlike-note"].text
            shown[f"image-{data['names'].index(marked)}"].click()
            assert badges[0] in shown["detail-facts"].text
        else:
            assert badges == [] and shown.names == []
        assert not shown.errors()


def test_ages_that_training_has_not_seen_are_marked(browser, written, tmp_path, worst_first):
    data, strips = parts(written)
    marked = worst_first[2]
    path = tmp_path / "r.html"
    outside = [name == marked for name in data["names"]]
    path.write_text(page({**data, "ages_outside": outside, "ages": "1 of 14 images"}, strips), encoding="utf-8")
    shown = Shown(browser, path)
    (badge,) = browser.find_elements("css selector", ".card .age")
    said = badge.text
    assert "age" in said
    shown.choose("side-filter", "age")
    assert shown.names == [marked]
    shown[f"image-{data['names'].index(marked)}"].click()
    assert said in shown["detail-facts"].text and not shown.errors()


def test_pictures_side_by_side(shown, written, data, worst_first):
    _, strips = parts(written)
    worst = overlaid(strips[data["names"].index(worst_first[0])])
    assert not close(worst["xray"], worst["map"]) and not close(worst["xray"], worst["reconstruction"])
    for name in worst_first:
        index = data["names"].index(name)
        expected = overlaid(strips[index])
        for place, view in enumerate(("xray", "reconstruction", "map"), 1):
            assert close(shown.pixels(f"#image-{index} canvas:nth-child({place})"), expected[view]), (name, view)


def test_sorting(shown, worst_first):
    shown.choose("sort", "best")
    assert shown.names == [*reversed(worst_first), "broken.png"]
    shown.choose("sort", "name")
    in_order = [name for name in shown.names if name.startswith("PNEUMONIA/person")]
    assert in_order[:2] == ["PNEUMONIA/person9_virus_9.jpeg", "PNEUMONIA/person10_bacteria_2.jpeg"]  # 9 before 10
    assert sorted(shown.names[:-1]) == sorted(worst_first) and shown.names[-1] == "broken.png"
    shown.choose("sort", "worst")
    assert shown.names == [*worst_first, "broken.png"]


def test_filters(shown, data, worst_first):
    threshold = data["thresholds"][0][0]
    score, label = (dict(zip(data["names"], data[key])) for key in ("scores", "labels"))
    above = [name for name in worst_first if score[name] >= threshold]
    assert 0 < len(above) < 13
    shown.choose("side-filter", "above")
    assert shown.names == above and shown["count"].text == f"{len(above)} of 14 images"
    shown.choose("label-filter", "0")
    assert shown.names == [name for name in above if label[name] == 0]
    shown.choose("side-filter", "all")
    for value, wanted in (("1", 1), ("0", 0), ("none", None)):
        shown.choose("label-filter", value)
        assert [n for n in shown.names if n != "broken.png"] == [n for n in worst_first if label[n] == wanted]
    shown.choose("label-filter", "all")
    shown.choose("side-filter", "below")
    assert shown.names == [name for name in worst_first if name not in above]
    shown.choose("side-filter", "none")
    assert shown.names == ["broken.png"]
    shown.choose("side-filter", "all")
    shown.type("search", "VIRUS")
    assert shown.names == [name for name in worst_first if "virus" in name]
    shown.type("search", "no such name")
    assert shown.names == [] and shown["empty"].is_displayed() and shown["count"].text == "0 of 14 images"


def test_the_threshold_is_moved_by_hand(shown, data, worst_first):
    from selenium.webdriver.common.keys import Keys

    scores = np.array([score for score in data["scores"] if score is not None])

    def counted(threshold):
        above = int((scores >= threshold).sum())
        expected = f"{above} image{'s' * (above != 1)} above, {13 - above} below, 1 without a score"
        assert shown["sides"].text == expected
        assert len(shown.browser.find_elements("css selector", ".card[data-side=above]")) == above
        return above

    for value, _ in data["thresholds"]:  # as the run has it, not as it is written
        shown.browser.find_element("css selector", f"#thresholds button[value='{value!r}']").click()
        counted(value)
        assert float(shown["threshold"].get_attribute("value")) == pytest.approx(value, rel=1e-5)
    shown["threshold-slider"].send_keys(Keys.END)
    assert counted(np.inf) == 0  # beyond the highest score
    shown["threshold-slider"].send_keys(Keys.HOME)
    assert counted(-np.inf) == 13
    before = float(shown["threshold"].get_attribute("value"))
    shown["threshold-slider"].send_keys(Keys.ARROW_RIGHT)
    step = float(shown["threshold"].get_attribute("value")) - before
    assert 0 < step < np.ptp(scores) / 50
    # By number, and live where a filter depends on it.
    shown.choose("side-filter", "above")
    middle = np.sort(scores)[6:8].mean()
    shown.type("threshold", f"{middle:.12g}")
    shown.settle()
    assert shown.names == [n for n in worst_first if data["scores"][data["names"].index(n)] >= middle]
    shown.type("threshold", "")
    assert shown["threshold"].get_attribute("aria-invalid") == "true" and len(shown.names) == 6  # the last one holds


def test_figures_where_labels_exist(shown, data):
    pairs = [(label, score) for label, score in zip(data["labels"], data["scores"]) if None not in (label, score)]
    labels, scores = map(np.array, zip(*pairs))
    assert shown["auc"].text == f"{roc_auc_score(labels, scores):.3f}"
    assert "20" in shown["interval"].text  # images per class that an interval needs
    rows = shown.browser.find_elements("css selector", "#class-rows tr")
    shares = {name: [name in image for image in data["names"]] for name in (NASTY_CLASS, "PNEUMONIA")}
    for row, (name, mine), expected in zip(rows, shares.items(), data["metrics"]["classes"], strict=True):
        cells = [cell.text for cell in row.find_elements("css selector", "th, td")]
        ends = f"{expected['low']:.3f} to {expected['high']:.3f}"
        assert cells == [name, str(sum(mine)), f"{expected['auc']:.3f}", ends] and sum(mine) in (1, 4)
        kept = [
            (label, score)
            for label, score, own in zip(data["labels"], data["scores"], mine)
            if score is not None and (label == 0 or own)
        ]
        assert expected["auc"] == pytest.approx(roc_auc_score(*zip(*kept)))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert "95 %" in shown["specificity-at"].text
    assert shown["specificity-at-sensitivity"].text == f"{100 * (1 - fpr[tpr >= 0.95].min()):.1f} %"
    shown.type("prevalence", "2.5")
    ordered = np.sort(scores)
    for threshold in (ordered[0], *(ordered[1:] + ordered[:-1])[::2] / 2):
        shown.type("threshold", f"{threshold:.12g}")
        called = scores >= float(f"{threshold:.12g}")
        tp, fn, fp, tn = (
            (labels[called == c] == is_).sum() for is_, c in ((1, True), (1, False), (0, True), (0, False))
        )
        names = ("true-positive", "false-negative", "false-positive", "true-negative")
        assert [int(shown[name].text) for name in names] == [tp, fn, fp, tn]
        sensitivity, specificity, prevalence = tp / (tp + fn), tn / (tn + fp), 0.025
        assert shown["sensitivity"].text == f"{100 * sensitivity:.1f} %"
        assert shown["specificity"].text == f"{100 * specificity:.1f} %"
        # Bayes' formula, P(ill | called) = P(called | ill) P(ill) / P(called), and the same of what is not called.
        p_called = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
        ppv = sensitivity * prevalence / p_called if p_called else None
        npv = specificity * (1 - prevalence) / (1 - p_called) if p_called < 1 else None
        for name, value in (("ppv", ppv), ("npv", npv)):
            text = shown[name].text
            assert text == "–" if value is None else float(text[:-2]) == pytest.approx(100 * value, abs=0.051)
        dot = [float(shown["roc-dot"].get_attribute(name)) for name in ("cx", "cy")]
        assert dot == pytest.approx([100 * (1 - specificity), 100 - 100 * sensitivity])
        dot = [float(shown["precision-recall-dot"].get_attribute(name)) for name in ("cx", "cy")]
        assert dot == pytest.approx([100 * sensitivity, 100 - 100 * tp / (tp + fp)])
    shown.type("prevalence", "120")
    assert shown["prevalence"].get_attribute("aria-invalid") == "true" and shown["ppv"].text == "–"


def test_the_curves_are_drawn(shown, data):
    stairs = data["metrics"]["precision_recall"]
    # As far as a recall goes down, the precision stays; then it changes.
    stairs = stairs + [[after[0], before[1]] for before, after in zip(stairs, stairs[1:])]
    for curve, points in (("roc", data["metrics"]["roc"]), ("precision-recall", stairs)):
        path = shown.browser.find_element("css selector", f"#{curve} .curve")
        # Where the drawn line is, at each point of the curve: on it.
        distances = shown.run(
            """const [path, points] = arguments; const length = path.getTotalLength();
            const line = Array.from({length: 2001}, (_, i) => path.getPointAtLength(length * i / 2000));
            const distance = (x, y) => Math.min(...line.map((at) => Math.hypot(at.x - 100 * x, at.y - 100 + 100 * y)));
            return points.map(([x, y]) => distance(x, y));""",
            path,
            points,
        )
        assert max(distances) < 0.2


def test_one_image_large(shown, written, data, worst_first):
    from selenium.webdriver.common.keys import Keys

    _, strips = parts(written)
    first, second = (strips[data["names"].index(name)] for name in worst_first[:2])
    detail = shown["detail"]
    shown.run("document.getElementById('list').focus()")
    shown.keys(Keys.ENTER)
    assert detail.is_displayed() and shown["detail-name"].text == worst_first[0]
    assert f"percentile of {data['normal']} normal " in shown["detail-facts"].text
    assert close(shown.pixels("#large"), overlaid(first)["map"])
    for key, view in (("1", "xray"), ("2", "reconstruction"), ("3", "map")):
        shown.keys(key)
        assert close(shown.pixels("#large"), overlaid(first)[view])
        assert shown.run("return document.querySelector('#views input:checked').value") == view
    shown.browser.find_element("css selector", "#views input[value=reconstruction]").click()
    shown.settle()
    assert close(shown.pixels("#large"), overlaid(first)["reconstruction"])
    shown["opacity"].send_keys(*[Keys.ARROW_LEFT] * 60)  # moves the slider, and not to another image
    shown.settle()
    assert shown["opacity-value"].text == "40 %" and shown["detail-name"].text == worst_first[0]
    assert close(shown.pixels("#large"), overlaid(first, 0.4)["reconstruction"])
    shown["large"].click()
    shown.keys(Keys.ARROW_RIGHT)
    assert shown["detail-name"].text == worst_first[1]
    assert close(shown.pixels("#large"), overlaid(second, 0.4)["reconstruction"])
    shown["next"].click()
    assert shown["detail-name"].text == worst_first[2]
    shown["previous"].click()
    shown["large"].click()
    shown.keys(Keys.ARROW_LEFT)
    assert shown["detail-name"].text == worst_first[0] and not shown["previous"].is_enabled()
    shown.keys(Keys.ARROW_RIGHT, Keys.ESCAPE)
    assert not detail.is_displayed()
    assert shown.run("return document.activeElement.id") == "list"
    active = shown["list"].get_attribute("aria-activedescendant")
    assert active == f"image-{data['names'].index(worst_first[1])}"  # where the reader was
    # Opened by hand and closed, it leaves the reader in the list too.
    shown["search"].click()
    shown[f"image-{data['names'].index(worst_first[3])}"].click()
    assert detail.is_displayed() and shown["detail-name"].text == worst_first[3]
    shown["close"].click()
    assert not detail.is_displayed() and shown.run("return document.activeElement.id") == "list"


def test_by_keyboard_alone(shown, data, worst_first):
    from selenium.webdriver.common.keys import Keys

    def active():
        return data["names"][int(shown["list"].get_attribute("aria-activedescendant").removeprefix("image-"))]

    shown.keys(Keys.TAB)
    assert shown.run("return document.activeElement.textContent") == "Skip to the images"
    shown.keys(Keys.ENTER)
    focused = set()
    for _ in range(30):  # every control can be reached
        shown.keys(Keys.TAB)
        focused.add(shown.run("return document.activeElement.id"))
    assert {
        "threshold",
        "threshold-slider",
        "prevalence",
        "search",
        "sort",
        "side-filter",
        "label-filter",
        "list",
    } <= focused
    shown.run("document.getElementById('list').focus()")
    order = [*worst_first, "broken.png"]
    columns = shown.run(
        "return getComputedStyle(document.getElementById('window')).gridTemplateColumns.split(' ').length"
    )
    assert columns == 2
    for key, position in (
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_DOWN, 3),
        (Keys.ARROW_LEFT, 2),
        (Keys.ARROW_UP, 0),
        (Keys.ARROW_UP, 0),
        (Keys.END, 13),
        (Keys.ARROW_RIGHT, 13),
        (Keys.HOME, 0),
    ):
        shown.keys(key)
        assert active() == order[position]
    card = shown[shown["list"].get_attribute("aria-activedescendant")]
    assert card.get_attribute("aria-selected") == "true" and card.value_of_css_property("outline-style") == "solid"
    shown.keys(Keys.END, Keys.ENTER)
    assert not shown["detail"].is_displayed()  # there is nothing to see of broken.png
    shown.keys(Keys.HOME, Keys.ENTER)
    for _ in range(8):  # the dialog keeps the focus
        shown.keys(Keys.TAB)
        assert shown.run(
            "return document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )


def test_every_control_has_a_name(shown):
    unnamed = shown.run(
        """const named = (control) => control.labels?.length || control.ariaLabel || control.textContent;
        const controls = [...document.querySelectorAll("input, select, button")];
        return controls.filter((control) => !named(control)).map((control) => control.outerHTML);"""
    )
    assert unnamed == []
    for live in ("count", "sides"):
        assert shown[live].get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_width_needs_sideways_scrolling(browser, written, width):
    from selenium.webdriver.common.keys import Keys

    shown = Shown(browser, written, width, 780)
    assert shown.run("return document.documentElement.scrollWidth") == width == shown.run("return innerWidth")
    for panel in ("labels-panel", "curves-panel", "run-panel"):
        shown.run("document.getElementById(arguments[0]).open = true", panel)
    assert shown.run("return document.documentElement.scrollWidth") == width
    shown.run("document.getElementById('list').focus()")
    shown.keys(Keys.ENTER)
    inside = shown.run(
        """const detail = document.getElementById("detail"); const {left, right} = detail.getBoundingClientRect();
        return left >= 0 && right <= innerWidth && detail.scrollWidth <= detail.clientWidth;"""
    )
    assert inside
    shown.keys(Keys.ESCAPE)
    assert shown.names and not shown.errors()


def test_light_and_dark(shown):
    def colours():
        style = "getComputedStyle(document.body)"
        return [
            np.array([int(part) for part in re.findall(r"\d+", shown.run(f"return {style}.{name}"))[:3]])
            for name in ("backgroundColor", "color")
        ]

    for scheme in ("dark", "light"):
        shown.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        ground, ink = colours()
        assert (ground.mean() < 60) == (scheme == "dark") and (ink.mean() > 200) == (scheme == "dark")


def test_names_do_not_run(shown, data):
    assert {NASTY, "NORMAL/" + "/".join(NASTY_FOLDER), "NORMAL/{{ data }}.jpeg"} <= set(shown.names)
    assert shown.run("return document.images.length") == 0 and shown.run("return document.scripts.length") == 3
    assert shown.browser.title == "fastsquid report: images"  # which a name that ran would have changed


def test_what_the_policy_forbids(shown):
    """Were there markup after all, or an address, nothing would run or be asked for."""
    violated = shown.browser.execute_async_script(
        """const done = arguments[0]; const violated = [];
        document.addEventListener("securitypolicyviolation", (event) => violated.push(event.effectiveDirective));
        document.body.append(Object.assign(document.createElement("script"), {textContent: "document.title = 'ran'"}));
        document.body.append(Object.assign(document.createElement("img"), {src: "https://example.org/x.png"}));
        document.body.append(Object.assign(document.createElement("style"), {textContent: "body { color: red }"}));
        fetch("https://example.org/").catch(() => setTimeout(() => done(violated.sort()), 50));"""
    )
    assert violated == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert shown.browser.title == "fastsquid report: images"
    assert len(shown.errors()) == 4 + 1  # each is reported once, and fetch its failure too


def test_of_many_images_few_are_drawn(browser, written, tmp_path):
    from selenium.webdriver.common.keys import Keys

    data, strips = parts(written)
    count, strip_ = 5000, max(strips)
    many = {**data, "names": [f"{n:04}.png" for n in range(count)], "scores": [float(count - n) for n in range(count)]}
    many |= {
        "labels": [None] * count,
        "percentiles": None,
        "errors": {},
        "metrics": None,
        "thresholds": [[2500, "half"]],
    }
    path = tmp_path / "many.html"
    path.write_text(page(many, [strip_] * count), encoding="utf-8")
    shown = Shown(browser, path, 1280, 900)
    assert shown["sides"].text == "2,501 images above, 2,499 below"
    assert "percentiles" in shown["no-percentiles"].text
    assert "percentile" not in shown["image-0"].text

    def drawn():
        return shown.run("return document.querySelectorAll('canvas').length")

    assert shown.names[0] == "0000.png" and drawn() < 100
    shown.run("scrollTo(0, document.documentElement.scrollHeight / 2)")
    shown.settle()
    middle = shown.names
    assert 2300 < int(middle[0][:4]) < 2700 and drawn() < 100
    shown.run("document.getElementById('list').focus({preventScroll: true})")
    shown.keys(Keys.END)
    assert shown.names[-1] == "4999.png" and drawn() < 100
    last = shown["image-4999"]
    assert last.get_attribute("aria-selected") == "true"
    bottom = shown.run("return arguments[0].getBoundingClientRect().bottom", last)
    assert 0 < bottom <= 900 + 12
    assert close(shown.pixels("#image-4999 canvas"), overlaid(strip_)["xray"])
    assert not shown.errors()


def test_labels_of_one_class(browser, written, tmp_path):
    data, strips = parts(written)
    path = tmp_path / "r.html"
    one = {**data, "labels": [label or None for label in data["labels"]], "metrics": None}
    path.write_text(page(one, strips), encoding="utf-8")
    shown = Shown(browser, path)
    assert re.search(r"\b5 labeled .*\babnormal\b", shown["one-class"].text)
    assert not shown["at-threshold"].is_displayed() and not shown["curves-panel"].is_displayed()
    shown.choose("label-filter", "1")
    assert len(shown.names) == 5 and not shown.errors()
