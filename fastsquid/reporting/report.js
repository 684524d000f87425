// What Python wrote: the data, and one line per image with its strip in base64. Neither can hold markup.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const strips = byId("strips").textContent.split("\n");
const read = data.names.map((_, index) => index).filter((index) => data.scores[index] !== null);
const scores = read.map((index) => data.scores[index]);
const unscored = data.names.length - read.length;
const labeled = read.filter((index) => data.labels[index] !== null);

const VIEWS = ["xray", "reconstruction", "map"];
const NAMES = { xray: "X-ray", reconstruction: "healthy reconstruction", map: "anomaly map over the X-ray" };
// matplotlib's inferno at 0, 1/8, ... 1, and as much of it as `python -m fastsquid.locate` lays over an X-ray.
const INFERNO = [
  [0, 0, 4],
  [31, 12, 72],
  [85, 15, 109],
  [136, 34, 106],
  [186, 54, 85],
  [227, 89, 51],
  [249, 140, 10],
  [249, 201, 50],
  [252, 255, 164],
];
const OPAQUE = 0.7;
const KEPT = 120; // decoded strips

const lowest = scores.reduce((a, b) => Math.min(a, b));
const highest = scores.reduce((a, b) => Math.max(a, b));
const span = highest - lowest || 1;
const digits = Math.max(4, Math.min(9, 3 + Math.ceil(Math.log10(Math.max(-lowest, highest) / span))));

let threshold = data.thresholds[0][0];
let shown = []; // indices of the images that pass the filters, in order
let active = 0; // position among them
let opened = null; // image of the detail view

/* Words and numbers */

// A score, with so many digits that different scores look different.
function number(value) {
  return String(Number(value.toPrecision(digits)));
}

function percent(share) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–";
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function ordinal(count) {
  const teen = count % 100 > 10 && count % 100 < 14;
  return `${count}${(!teen && { 1: "st", 2: "nd", 3: "rd" }[count % 10]) || "th"}`;
}

function percentile(index, of) {
  if (!data.percentiles) return null;
  return `${ordinal(data.percentiles[index])} percentile of ${data.normal.toLocaleString("en")} normal ${of}`;
}

function side(index) {
  return data.scores[index] >= threshold ? "above" : "below";
}

// Ratio to the input check's threshold, where it is above.
function unlike(index) {
  const ratio = data.unlike?.[index] ?? 0;
  return ratio > 1 ? `unlike the training images (${ratio.toPrecision(3)})` : null;
}

// What is to be seen at once, as [class, text].
function marks(index) {
  const found = [];
  if (unlike(index)) found.push(["unlike", unlike(index)]);
  if (data.ages_outside[index]) found.push(["age", "age not seen in training"]);
  return found;
}

function label(index) {
  return data.labels[index] === null ? null : ["normal", "abnormal"][data.labels[index]];
}

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function drawn(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/* Pictures */

const decoded = new Map(); // index -> promise of a strip, the latest used last
const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const heat = Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (INFERNO.length - 1);
  const below = Math.min(Math.floor(place), INFERNO.length - 2);
  const mixed = INFERNO[below].map((low, i) => low + (place - below) * (INFERNO[below + 1][i] - low));
  return [...mixed, (255 * OPAQUE * value) / 255];
});

function strip(index) {
  const found = decoded.get(index) ?? decode(index);
  decoded.delete(index);
  decoded.set(index, found);
  if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  return found;
}

function decode(index) {
  const bytes = Uint8Array.from(atob(strips[index]), (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/webp" }));
}

// Draws the X-ray, and over it at an opacity of 0 to 1 its reconstruction or map.
// The other two have the model's size, and half of the strip's width that the X-ray leaves.
function paint(canvas, pictures, index, view, opacity = 1) {
  const side = pictures.height;
  const small = (pictures.width - side) / 2;
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const part = (target, from, size) => target.drawImage(pictures, from, 0, size, size, 0, 0, side, side);
  part(context, 0, side);
  context.globalAlpha = opacity;
  if (view === "reconstruction") part(context, side, small);
  if (view === "map") {
    scratch.canvas.width = scratch.canvas.height = side;
    part(scratch, side + small, small);
    tint(scratch, side, side);
    context.drawImage(scratch.canvas, 0, 0);
  }
  context.globalAlpha = 1;
  if (view !== "reconstruction") frame(context, data.places[index] ?? [], side);
}

// Frames what is known to be abnormal: boxes [left, top, right, bottom, finding], as shares of the side.
function frame(context, boxes, side) {
  context.strokeStyle = "#e3342f";
  context.lineWidth = Math.max(2, side / 150);
  for (const [left, top, right, bottom] of boxes) {
    context.strokeRect(left * side, top * side, (right - left) * side, (bottom - top) * side);
  }
}

function tint(context, width, height) {
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set(heat[pixels.data[i]], i);
  context.putImageData(pixels, 0, 0);
}

/* The list: only the cards in view exist */

const list = byId("list");
const cards = new Map(); // position -> card
let rowHeight = 0;

function card(position) {
  const index = shown[position];
  const made = element("div", { className: "card", id: `image-${index}` });
  made.setAttribute("role", "option");
  made.setAttribute("aria-posinset", position + 1);
  made.setAttribute("aria-setsize", shown.length);
  const name = element("p", { className: "name", title: data.names[index], textContent: data.names[index] });
  if (data.scores[index] === null) {
    made.dataset.side = "none";
    made.append(element("p", { className: "unreadable", textContent: `Unreadable: ${data.errors[index]}` }), name);
    made.append(element("p", { className: "score" }, [element("b", { textContent: "no score" })]));
    if (labeled.length) made.append(element("p", { className: "label" }));
    made.append(element("p", { className: "percentile" }));
  } else {
    const canvases = VIEWS.map(() => element("canvas"));
    const badges = marks(index).map(([className, textContent]) => element("span", { className, textContent }));
    const over = element("div", { className: "marks" }, badges);
    made.append(element("div", { className: "pictures" }, [...canvases, over]), name);
    made.append(element("p", { className: "score" }));
    if (labeled.length) {
      made.append(element("p", { className: "label", textContent: label(index) ? `labeled ${label(index)}` : "not labeled" }));
    }
    made.append(element("p", { className: "percentile", textContent: percentile(index, "images") ?? "" }));
    strip(index).then((pictures) => canvases.forEach((canvas, i) => paint(canvas, pictures, index, VIEWS[i])));
  }
  made.addEventListener("click", () => open(position));
  return made;
}

function mark(position, made) {
  const index = shown[position];
  made.setAttribute("aria-selected", position === active);
  if (data.scores[index] === null) return;
  made.dataset.side = side(index);
  made.querySelector(".score").replaceChildren(
    element("b", { textContent: number(data.scores[index]) }),
    element("span", { className: "side", textContent: `${side(index)} threshold` }),
  );
}

function columns() {
  return getComputedStyle(byId("window")).gridTemplateColumns.split(" ").length;
}

// Makes the cards that are in view and forgets the others.
function render() {
  const across = columns();
  const above = Math.max(0, -list.getBoundingClientRect().top);
  const firstRow = Math.max(0, Math.floor(above / rowHeight) - 1);
  const lastRow = Math.ceil((above + innerHeight) / rowHeight) + 1;
  const first = firstRow * across;
  const last = Math.min(shown.length, lastRow * across);
  for (const position of [...cards.keys()]) if (position < first || position >= last) cards.delete(position);
  for (let position = first; position < last; position++) {
    if (!cards.has(position)) cards.set(position, card(position));
    mark(position, cards.get(position));
  }
  const inOrder = [...cards.keys()].sort((a, b) => a - b).map((position) => cards.get(position));
  const block = byId("window");
  const there = [...block.children];
  const same = inOrder.length === there.length && inOrder.every((made, i) => made === there[i]);
  if (!same) block.replaceChildren(...inOrder);
  block.style.transform = `translateY(${firstRow * rowHeight}px)`;
  if (cards.has(active)) list.setAttribute("aria-activedescendant", cards.get(active).id);
  else list.removeAttribute("aria-activedescendant");
}

// Measures a card, of which all are as high, and gives the list the height of all of them.
function layout() {
  if (shown.length) {
    if (!cards.size) {
      cards.set(0, card(0));
      byId("window").replaceChildren(cards.get(0));
      mark(0, cards.get(0));
    }
    rowHeight = cards.values().next().value.offsetHeight + parseFloat(getComputedStyle(byId("window")).rowGap);
    list.style.height = `${Math.ceil(shown.length / columns()) * rowHeight}px`;
    render();
  } else {
    byId("window").replaceChildren();
    list.style.height = "";
    list.removeAttribute("aria-activedescendant");
  }
}

const names = new Intl.Collator("en", { numeric: true });
const ORDERS = {
  worst: (a, b) => data.scores[b] - data.scores[a],
  best: (a, b) => data.scores[a] - data.scores[b],
  name: (a, b) => names.compare(data.names[a], data.names[b]),
};

// Filters and sorts; unreadable images have no score and come last.
function choose() {
  const text = byId("search").value.trim().toLowerCase();
  const sides = byId("side-filter").value;
  const wanted = byId("label-filter").value;
  const passes = (index) => {
    const state = data.scores[index] === null ? "none" : side(index);
    return (
      (sides === "all" || sides === state || marks(index).some(([mark]) => mark === sides)) &&
      (wanted === "all" || wanted === String(data.labels[index] ?? "none")) &&
      data.names[index].toLowerCase().includes(text)
    );
  };
  const order = ORDERS[byId("sort").value];
  const passing = data.names.map((_, index) => index).filter(passes);
  const missing = passing.filter((index) => data.scores[index] === null);
  shown = [...passing.filter((index) => data.scores[index] !== null).sort(order), ...missing.sort(ORDERS.name)];
  active = 0;
  cards.clear();
  layout();
  byId("empty").hidden = shown.length > 0;
  byId("count").textContent = `${shown.length.toLocaleString("en")} of ${plural(data.names.length, "image")}`;
}

function activate(position) {
  active = Math.max(0, Math.min(shown.length - 1, position));
  const row = Math.floor(active / columns());
  const top = list.getBoundingClientRect().top + row * rowHeight;
  const bar = byId("bar").getBoundingClientRect();
  const covered = getComputedStyle(byId("bar")).position === "sticky" ? bar.height : 0;
  if (top < covered) scrollBy(0, top - covered - 8);
  else if (top + rowHeight > innerHeight) scrollBy(0, top + rowHeight - innerHeight);
  render();
}

list.addEventListener("keydown", (event) => {
  const across = columns();
  const page = across * Math.max(1, Math.floor(innerHeight / rowHeight) - 1);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -page, PageDown: page };
  if (!shown.length || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in steps) activate(active + steps[event.key]);
  else if (event.key === "Home") activate(0);
  else if (event.key === "End") activate(shown.length - 1);
  else if (event.key === "Enter" || event.key === " ") open(active);
  else return;
  event.preventDefault();
});

/* One image, large */

const detail = byId("detail");

function open(position) {
  activate(position);
  if (data.scores[shown[active]] === null) return;
  opened = shown[active];
  if (!detail.open) {
    detail.showModal();
    byId("large").focus(); // where the arrows are free
  }
  showDetail();
}

async function showDetail() {
  const index = opened;
  byId("detail-name").textContent = data.names[index];
  const facts = [
    `score ${number(data.scores[index])}`,
    `${side(index)} threshold`,
    label(index) && `labeled ${label(index)}`,
    ...new Set((data.places[index] ?? []).map((box) => box[4] && `framed: ${box[4]}`)),
    ...marks(index).map(([, text]) => text),
    percentile(index, "validation images"),
    `${(active + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`,
  ];
  byId("detail-facts").replaceChildren(...facts.filter(Boolean).map((fact) => element("span", { textContent: fact })));
  byId("previous").disabled = neighbor(-1) === null;
  byId("next").disabled = neighbor(1) === null;
  const pictures = await strip(index);
  if (index !== opened) return; // gone on meanwhile
  document.querySelectorAll("#views canvas").forEach((canvas, i) => paint(canvas, pictures, index, VIEWS[i]));
  const view = document.querySelector("#views input:checked").value;
  const opacity = view === "xray" ? 0 : byId("opacity").valueAsNumber / 100;
  byId("opacity").disabled = view === "xray";
  byId("opacity-value").textContent = `${Math.round(100 * opacity)} %`;
  paint(byId("large"), pictures, index, view, opacity);
  byId("large").setAttribute("aria-label", `${NAMES[view]} of ${data.names[index]}`);
}

// The next readable image in a direction, or null at the end.
function neighbor(step) {
  const position = active + step;
  return position >= 0 && position < shown.length && data.scores[shown[position]] !== null ? position : null;
}

function walk(step) {
  if (neighbor(step) !== null) open(neighbor(step));
}

function chooseView(view) {
  document.querySelector(`#views input[value=${view}]`).checked = true;
  showDetail();
}

byId("previous").addEventListener("click", () => walk(-1));
byId("next").addEventListener("click", () => walk(1));
byId("close").addEventListener("click", () => detail.close());
byId("views").addEventListener("change", showDetail);
byId("opacity").addEventListener("input", showDetail);
detail.addEventListener("close", () => {
  opened = null;
  list.focus({ preventScroll: true });
});
detail.addEventListener("click", (event) => event.target === detail && detail.close());
detail.addEventListener("keydown", (event) => {
  if (["1", "2", "3"].includes(event.key)) chooseView(VIEWS[event.key - 1]);
  else if (event.target.tagName === "INPUT") return; // it uses the arrows itself
  else if (event.key === "ArrowLeft") walk(-1);
  else if (event.key === "ArrowRight") walk(1);
  else return;
  event.preventDefault();
});

/* The threshold, and its metrics where there are labels */

const slider = byId("threshold-slider");

function setThreshold(value) {
  threshold = value;
  const above = scores.filter((score) => score >= threshold).length;
  slider.value = threshold;
  const line = byId("histogram-threshold");
  line.setAttribute("x1", place(threshold));
  line.setAttribute("x2", place(threshold));
  const below = (scores.length - above).toLocaleString("en");
  byId("sides").textContent = `${plural(above, "image")} above, ${below} below${unscored ? `, ${unscored} without a score` : ""}`;
  for (const button of document.querySelectorAll("#thresholds button")) {
    button.setAttribute("aria-pressed", Number(button.value) === threshold);
  }
  if (data.metrics) judge();
  if (byId("side-filter").value === "all") render();
  else choose();
}

function writeThreshold(value) {
  byId("threshold").value = Number(value.toPrecision(digits + 3));
  byId("threshold").removeAttribute("aria-invalid");
  setThreshold(value);
}

// Where a score is between the lowest and the highest, in percent.
function place(score) {
  return Math.max(0, Math.min(100, (100 * (score - lowest)) / span));
}

function judge() {
  const count = (is, where) => labeled.filter((index) => data.labels[index] === is && side(index) === where).length;
  const [tp, fn, fp, tn] = [count(1, "above"), count(1, "below"), count(0, "above"), count(0, "below")];
  const sensitivity = tp / (tp + fn);
  const specificity = tn / (tn + fp);
  byId("true-positive").textContent = tp;
  byId("false-negative").textContent = fn;
  byId("false-positive").textContent = fp;
  byId("true-negative").textContent = tn;
  byId("sensitivity").textContent = percent(sensitivity);
  byId("specificity").textContent = percent(specificity);
  const input = byId("prevalence");
  const prevalence = input.valueAsNumber / 100;
  const known = prevalence >= 0 && prevalence <= 1;
  input.setAttribute("aria-invalid", !known);
  // Bayes: of those above, or below, the share that is right there.
  const right = [sensitivity * prevalence, specificity * (1 - prevalence)];
  const wrong = [(1 - specificity) * (1 - prevalence), (1 - sensitivity) * prevalence];
  byId("ppv").textContent = percent(known ? right[0] / (right[0] + wrong[0]) : NaN);
  byId("npv").textContent = percent(known ? right[1] / (right[1] + wrong[1]) : NaN);
  moveDot("roc", 1 - specificity, sensitivity);
  moveDot("precision-recall", sensitivity, tp / (tp + fp));
}

function moveDot(curve, x, y) {
  const dot = byId(`${curve}-dot`);
  const known = Number.isFinite(y); // there is no precision where nothing is above
  dot.setAttribute("visibility", known ? "visible" : "hidden");
  dot.setAttribute("cx", 100 * x);
  dot.setAttribute("cy", known ? 100 - 100 * y : 0);
}

slider.addEventListener("input", () => writeThreshold(slider.valueAsNumber));
byId("threshold").addEventListener("input", (event) => {
  const value = event.target.valueAsNumber;
  event.target.setAttribute("aria-invalid", !Number.isFinite(value));
  if (Number.isFinite(value)) setThreshold(value);
});
byId("prevalence").addEventListener("input", judge);
function refine() {
  choose();
  if (list.getBoundingClientRect().top < 0) activate(0);
}

byId("search").addEventListener("input", refine);
for (const select of document.querySelectorAll("#bar select")) select.addEventListener("change", refine);

/* What stays as it is once the page is made */

// Labeled and unlabeled images on top of each other.
function drawHistogram() {
  const bins = 50;
  const bin = (index) => Math.min(bins - 1, Math.floor((bins * place(data.scores[index])) / 100));
  const kinds = ["normal", "abnormal", "unlabeled"];
  const groups = kinds.map((kind) => read.filter((index) => (label(index) ?? "unlabeled") === kind));
  const all = new Array(bins).fill(0);
  for (const index of read) all[bin(index)]++;
  const unit = 29 / all.reduce((a, b) => Math.max(a, b));
  const tops = new Array(bins).fill(30);
  groups.forEach((group, i) => {
    const counts = new Array(bins).fill(0);
    for (const index of group) counts[bin(index)]++;
    counts.forEach((count, at) => {
      if (!count) return;
      tops[at] -= unit * count;
      const box = { x: (100 * at) / bins, y: tops[at], width: 100 / bins, height: unit * count };
      byId("histogram").append(drawn("rect", { class: kinds[i], ...box }));
    });
    if (group.length && group.length < read.length) {
      byId("histogram-key").append(element("span", { className: kinds[i], textContent: kinds[i] }));
    }
  });
  byId("histogram").append(drawn("line", { id: "histogram-threshold", y1: 0, y2: 30 }));
}

// Points are [x, y] in [0, 1]; as stairs, or joined.
function drawCurve(id, title, xName, yName, points, stairs) {
  const at = ([x, y]) => `${100 * x} ${100 - 100 * y}`;
  const step = ([x, y]) => `H${100 * x}V${100 - 100 * y}`;
  const path = stairs ? `M${at(points[0])}${points.slice(1).map(step).join("")}` : `M${points.map(at).join("L")}`;
  const name = `${title}: ${yName} over ${xName}`;
  const svg = drawn("svg", { id, viewBox: "-13 -5 118 118", role: "img", "aria-label": name });
  svg.append(drawn("path", { class: "frame", d: "M0 0H100V100H0ZM50 0V100M0 50H100" }));
  if (!stairs) svg.append(drawn("path", { class: "chance", d: "M0 100L100 0" }));
  svg.append(drawn("path", { class: "curve", d: path }), drawn("circle", { id: `${id}-dot`, r: 3 }));
  for (const [end, value] of [[0, "0"], [100, "1"]]) {
    svg.append(drawn("text", { x: end, y: 109, "text-anchor": "middle" }, value));
    svg.append(drawn("text", { x: -3, y: 103 - end, "text-anchor": "end" }, value));
  }
  svg.append(drawn("text", { x: 50, y: 109, "text-anchor": "middle" }, xName));
  svg.append(drawn("text", { transform: "translate(-4 50) rotate(-90)", "text-anchor": "middle" }, yName));
  byId("curves").append(element("figure", {}, [element("figcaption", { textContent: title }), svg]));
}

function drawScales() {
  for (const scale of document.querySelectorAll(".scale")) {
    const canvas = element("canvas", { width: heat.length, height: 1 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "colors of the map");
    const context = canvas.getContext("2d");
    heat.forEach(([red, green, blue, alpha], value) => {
      context.fillStyle = "#777"; // about what a map lies over
      context.fillRect(value, 0, 1, 1);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
      context.fillRect(value, 0, 1, 1);
    });
    scale.append("0", canvas, `${data.deviations} or more standard deviations from normal`);
  }
}

function beginThresholds() {
  slider.min = lowest;
  slider.max = lowest + span * 1.002; // beyond the highest score, where no image is above
  slider.step = span / 500;
  for (const [value, what] of data.thresholds) {
    const button = element("button", { type: "button", value, textContent: number(value) });
    button.addEventListener("click", () => writeThreshold(value));
    byId("thresholds").append(element("li", {}, [button, what]));
  }
}

function beginMetrics() {
  const metrics = data.metrics;
  const abnormal = labeled.filter((index) => data.labels[index] === 1).length;
  const images = plural(labeled.length, "labeled image");
  byId("labeled").textContent = `${images}: ${abnormal} abnormal, ${labeled.length - abnormal} normal`;
  byId("prevalence").value = Number(((100 * abnormal) / labeled.length).toPrecision(3));
  byId("share").textContent = `${byId("prevalence").value} %`;
  byId("auc").textContent = metrics.auc.toFixed(3);
  const ends = metrics.interval?.map((end) => end.toFixed(3)).join(" to ");
  byId("interval").textContent = ends ?? `needs ${metrics.fewest} images per class`;
  byId("classes").hidden = !metrics.classes.length;
  for (const { name, images, auc, low, high } of metrics.classes) {
    const cells = [images, auc.toFixed(3), `${low.toFixed(3)} to ${high.toFixed(3)}`];
    const row = element("tr", {}, [element("th", { scope: "row", textContent: name })]);
    row.append(...cells.map((textContent) => element("td", { textContent })));
    byId("class-rows").append(row);
  }
  byId("average-precision").textContent = metrics.average_precision.toFixed(3);
  byId("specificity-at").textContent = `Specificity at ${Math.round(100 * metrics.sensitivity)} % sensitivity`;
  byId("specificity-at-sensitivity").textContent = percent(metrics.specificity);
  drawCurve("roc", "ROC", "1 − specificity", "sensitivity", metrics.roc, false);
  drawCurve("precision-recall", "Precision and recall", "recall", "precision", metrics.precision_recall, true);
}

function begin() {
  document.title = `fastsquid report: ${data.title}`;
  byId("title").textContent = `Anomaly report: ${data.title}`;
  byId("trained-on").textContent = data.trained_on;
  byId("ages").textContent = data.ages && `${data.ages}.`;
  byId("unlike-note").textContent = data.unlike_note && `${data.unlike_note}.`;
  for (const [what, text] of data.run) {
    byId("run").append(element("dt", { textContent: what }), element("dd", { textContent: text }));
  }
  for (const meaning of document.querySelectorAll(".map-meaning")) meaning.textContent = `The map shows ${data.map}.`;
  byId("unscored-note").textContent = unscored
    ? `${unscored} of ${plural(data.names.length, "image")} could not be read and have no score.`
    : "";
  byId("no-percentiles").hidden = data.percentiles !== null;
  drawScales();
  drawHistogram();
  beginThresholds();
  byId("label-control").hidden = byId("labels-panel").hidden = !labeled.length;
  byId("at-threshold").hidden = byId("curves-panel").hidden = !data.metrics;
  if (data.metrics) beginMetrics();
  else if (labeled.length) {
    const only = `All ${labeled.length} labeled images are ${label(labeled[0])}`;
    byId("one-class").textContent = `${only}: sensitivity, specificity and curves need both.`;
  }
  const narrow = matchMedia("(max-width: 60rem)").matches;
  if (narrow) for (const id of ["labels-panel", "curves-panel", "run-panel"]) byId(id).open = false;
  choose();
  writeThreshold(threshold);
  addEventListener("scroll", () => requestAnimationFrame(render), { passive: true });
  addEventListener("resize", layout);
  new ResizeObserver(() => requestAnimationFrame(layout)).observe(byId("images"));
}

begin();
