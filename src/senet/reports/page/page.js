// The page of an evaluation: sections without data are hidden.
{
const data = JSON.parse($("data").textContent);
const classification = data.task === "classification", multiLabel = data.task === "multi-label";
const known = (value) => value !== null && value !== undefined;
const share = (value) => (known(value) ? `${(100 * value).toFixed(2)}%` : "–");
const four = (value) => (known(value) ? value.toFixed(4) : "–");
const between = (interval, format) => (interval ? `${format(interval[0])} to ${format(interval[1])}` : "");
const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);
const basename = (path) => path.split(/[\\/]/).at(-1);
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

// ---- summary -------------------------------------------------------------------------------------------------------
function tiles() {
  const list = classification
    ? [["top-1 accuracy", share(data.top1), between(data.intervals.top1, percent)],
       ...(known(data.top5) ? [["top-5 accuracy", share(data.top5), between(data.intervals.top5, percent)]] : []),
       ["balanced accuracy", share(data.balanced_accuracy), between(data.intervals.balanced_accuracy, percent)],
       ["macro F1", share(data.macro_f1), between(data.intervals.macro_f1, percent)],
       ["calibration error", share(data.calibration.ece), between(data.calibration.interval, percent)],
       ["cross entropy", four(data.loss), between(data.intervals.loss, four)]]
    : multiLabel
    ? [["mAP", share(data.map), between(data.intervals.map, percent)],
       ["micro F1", share(data.micro_f1), between(data.intervals.micro_f1, percent)],
       ["macro F1", share(data.macro_f1), between(data.intervals.macro_f1, percent)],
       ["calibration error", share(data.calibration.ece), between(data.calibration.interval, percent)],
       ["binary cross entropy", four(data.loss), between(data.intervals.loss, four)]]
    : Object.entries(data.titles).map(([key, title]) => [title, share(data.metrics[key]), between(data.intervals[key], percent)]);
  $("tiles").replaceChildren(...list.map(([name, value, interval]) =>
    make("div", { class: "tile" }, make("span", {}, name), make("b", {}, value), make("span", {}, interval))));
}
function notes() {
  const alarms = [...data.warnings];
  if (data.unreadable.length) alarms.push(`${plural(data.unreadable.length, "image")} can't be read and ${data.unreadable.length === 1 ? "is" : "are"} left out`);
  const list = [];
  if (classification || multiLabel) {
    const all = Object.entries(data.classes);
    const without = all.filter(([, c]) => !c.images).map(([name]) => name);
    const few = all.filter(([, c]) => c.images && c.images < 10);
    const named = (names) => `${names.slice(0, 5).map(short).join(", ")}${names.length > 5 ? ", …" : ""}`;
    if (without.length) list.push(`no images of ${plural(without.length, "class")}: ${named(without)}`);
    if (few.length) list.push(`fewer than 10 images of ${plural(few.length, "class")}, so their figures are rough: ${named(few.map(([name, c]) => `${name} (${c.images})`))}`);
  }
  $("notes").replaceChildren(...alarms.map((text) => make("li", { class: "alarm" }, make("b", {}, "! "), text)), ...list.map((text) => make("li", {}, text)));
  if (data.unreadable.length) {
    $("unreadable").hidden = false;
    $("unreadable").querySelector("summary").textContent = "Unreadable images";
    $("unreadable").querySelector("ul").replaceChildren(...data.unreadable.slice(0, 1000).map(([path, reason]) => make("li", {}, `${path}: ${reason}`)));
  }
}

// ---- tables --------------------------------------------------------------------------------------------------------
// Columns: [key, head, format, title]. A click sorts, the largest number first; a third click restores the order.
function sortable(table, columns, rows) {
  let key = null, down = false;
  const draw = () => {
    const sorted = [...rows];
    const value = (row) => (known(row[key]) ? row[key] : -1);
    if (key !== null) sorted.sort((a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0) * (down ? -1 : 1));
    table.tHead.replaceChildren(make("tr", {}, ...columns.map(([name, head, format, title]) => make("th", {
      scope: "col", title: title || null, "aria-sort": key === name ? (down ? "descending" : "ascending") : "none" },
      make("button", { type: "button", "data-key": name, onclick: () => {
        const first = format !== null;
        if (key !== name) [key, down] = [name, first];
        else if (down === first) down = !first;
        else key = null;
        draw();
        table.tHead.querySelector(`[data-key="${name}"]`).focus();
      } }, head)))));
    table.tBodies[0].replaceChildren(...sorted.map((row) => make("tr", {}, ...columns.map(([name, , format]) => {
      const parts = format ? format(row[name], row) : row[name];
      return make("td", { "data-key": name, title: format ? null : row[name] }, ...(Array.isArray(parts) ? parts : [parts]));
    }))));
  };
  draw();
}
function bar(value) {
  return known(value) ? [make("span", { class: "bar", style: `--part:${(100 * value).toFixed(1)}%` })] : [];
}
function classTable() {
  const ranged = (name) => (value, row) => [...bar(value), make("span", { class: "share" }, share(value)),
    ...(row[`${name}_interval`] ? [make("span", { class: "range" }, between(row[`${name}_interval`], percent))] : [])];
  if (classification) {
    const rows = Object.entries(data.classes).map(([name, c]) => ({ name, ...c }));
    $("classes-text").textContent = "Precision: the fraction of the images predicted as this class that are of it. Recall: the fraction of its images that are predicted as it. Ranges are 95% intervals over images. Click a column head to sort.";
    sortable($("class-table"), [["name", "class", null], ["images", "images", count], ["predicted", "predicted", count],
      ["precision", "precision", ranged("precision")], ["recall", "recall", ranged("recall")], ["f1", "F1", share]], rows);
    return;
  }
  if (multiLabel) {
    const rows = Object.entries(data.classes).map(([name, c]) => ({ name, ...c }));
    $("classes-text").textContent = "AP: the area under the curve of precision over recall. Precision, recall and F1 are those at the threshold: an image is predicted to have the label from this probability on. Ranges are 95% intervals over images. Click a column head to sort.";
    sortable($("class-table"), [["name", "label", null], ["images", "images", count], ["predicted", "predicted", count],
      ["average_precision", "AP", (value) => [...bar(value), make("span", { class: "share" }, share(value))]],
      ["precision", "precision", ranged("precision")], ["recall", "recall", ranged("recall")], ["f1", "F1", share], ["threshold", "threshold", four]], rows);
    return;
  }
  const rows = Object.entries(data.per_class).map(([name, metrics]) => ({ name, ...metrics }));
  const heads = { iou: "IoU", dice: "Dice", map: "AP, IoU 0.5 to 0.95", ap50: "AP, IoU 0.5" };
  const keys = Object.keys(rows[0] ?? {}).filter((key) => key !== "name");
  $("classes-text").textContent = data.task === "segmentation"
    ? "IoU and Dice over all pixels. A class that is neither present nor predicted has none. Click a column head to sort."
    : "Average precision of each class with objects, as COCO computes it. Click a column head to sort.";
  sortable($("class-table"), [["name", "class", null], ...keys.map((key) => [key, heads[key] ?? key, (value) => [...bar(value), make("span", { class: "share" }, share(value))]])], rows);
}

// ---- charts --------------------------------------------------------------------------------------------------------
const WIDE = 380, HIGH = 230, LEFT = 42, RIGHT = 8, TOP = 8, BOTTOM = 36;
const across = (v) => LEFT + (WIDE - LEFT - RIGHT) * v, up = (v) => TOP + (HIGH - TOP - BOTTOM) * (1 - v);
function frame(label, horizontal, top = 1) {
  const svg = make("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label });
  for (let t = 0; t <= 4; t++) {
    svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: up(t / 4), y2: up(t / 4) }),
      make("text", { x: LEFT - 4, y: up(t / 4) + 4, "text-anchor": "end" }, top === 1 ? (t / 4).toFixed(2) : count(Math.round(top * t / 4))),
      make("text", { x: across(t / 4), y: HIGH - 20, "text-anchor": t === 4 ? "end" : "middle" }, (t / 4).toFixed(2)));
  }
  svg.append(make("text", { x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 5, "text-anchor": "middle" }, horizontal));
  return svg;
}
const hide = () => { $("tip").hidden = true; };
function calibration() {
  const { bins, ece } = data.calibration, filled = bins.filter((b) => b.images);
  $("calibration-text").textContent = multiLabel ? `Among the pairs of an image and a label with about the same probability, the fraction of images that have the label (dot, with its 95% interval) should equal that probability (diagonal). The calibration error, ${share(ece)}, is the mean distance over ${bins.length} bins, weighted by pairs.` : `Among the images with about the same probability, the fraction of right predictions (dot, with its 95% interval) should equal that probability (diagonal). Dots below the diagonal: the network is too confident. The calibration error, ${share(ece)}, is the mean distance over ${bins.length} bins, weighted by images.`;
  const columns = (svg, height) => bins.forEach((b) => svg.append(make("g", {
    onpointerleave: hide,
    onpointermove: (e) => tip(e.clientX, e.clientY, `probability ${b.low.toFixed(2)} to ${b.high.toFixed(2)}`, [[multiLabel ? "pairs" : "images", count(b.images)],
      ["mean probability", share(b.confidence)], [multiLabel ? "with the label" : "right", share(b.accuracy)], ...(b.interval ? [["95% interval", between(b.interval, percent)]] : [])]) },
    make("rect", { x: across(b.low), width: across(b.high) - across(b.low), y: TOP, height: HIGH - TOP - BOTTOM, fill: "transparent" }),
    ...height(b))));
  const diagram = frame("Reliability diagram", `mean probability of the ${multiLabel ? "label" : "predicted class"}`);
  diagram.append(make("line", { x1: across(0), x2: across(1), y1: up(0), y2: up(1), style: "stroke:var(--quiet)", "stroke-dasharray": "4 3" }));
  columns(diagram, (b) => (b.images ? [
    make("line", { x1: across(b.confidence), x2: across(b.confidence), y1: up(b.interval[0]), y2: up(b.interval[1]), style: "stroke:var(--c0)", "stroke-width": 2, "stroke-opacity": 0.5 }),
    make("circle", { cx: across(b.confidence), cy: up(b.accuracy), r: 4, style: "fill:var(--c0)", "data-bin": b.low.toFixed(2) })] : []));
  const most = Math.max(1, ...filled.map((b) => b.images));
  const histogram = frame(multiLabel ? "Pairs by probability" : "Images by probability", `probability of the ${multiLabel ? "label" : "predicted class"}`, most);
  columns(histogram, (b) => [make("rect", { x: across(b.low) + 1, width: across(b.high) - across(b.low) - 2, y: up(b.images / most), height: up(0) - up(b.images / most), style: "fill:var(--c0)" })]);
  $("calibration-panels").replaceChildren(make("div", { class: "panel" }, make("h3", {}, multiLabel ? "Images with the label" : "Right predictions"), diagram),
    make("div", { class: "panel" }, make("h3", {}, multiLabel ? "Pairs of an image and a label" : "Images"), histogram));
}
const MOST_CURVES = 48;
function curves() {
  const list = Object.entries(data.curves).map(([name, values]) => [name, values,
    multiLabel ? data.classes[name].average_precision : values.reduce((sum, v) => sum + v, 0) / values.length]);
  list.sort((a, b) => a[2] - b[2]);
  $("curves-text").textContent = `Precision over recall${multiLabel ? "" : " at IoU 0.5"}, the lowest average precision first.` +
    (list.length > MOST_CURVES ? ` ${MOST_CURVES} of ${count(list.length)} ${multiLabel ? "labels" : "classes"}; report.json has all of them.` : "");
  $("curve-panels").replaceChildren(...list.slice(0, MOST_CURVES).map(([name, values, mean]) => {
    const svg = frame(`Precision and recall of ${name}`, "recall");
    svg.append(make("path", { d: "M" + values.map((v, i) => `${across(i / 100).toFixed(1)},${up(v).toFixed(1)}`).join("L"), fill: "none", style: "stroke:var(--c0)", "stroke-width": 2 }));
    svg.addEventListener("pointermove", (e) => {
      const box = svg.getBoundingClientRect();
      const i = Math.max(0, Math.min(100, Math.round(100 * (((e.clientX - box.left) / box.width) * WIDE - LEFT) / (WIDE - LEFT - RIGHT))));
      tip(e.clientX, e.clientY, name, [["recall", (i / 100).toFixed(2)], ["precision", values[i].toFixed(3)]]);
    });
    svg.addEventListener("pointerleave", hide);
    return make("div", { class: "panel" }, make("h3", {}, name, make("small", {}, ` · AP ${share(mean)}`)), svg);
  }));
}

// ---- confusion matrix ----------------------------------------------------------------------------------------------
const MOST_TABLE = 25;
function matrix() {
  const { classes, cells, counted } = data.confusion, n = classes.length;
  const sums = new Array(n).fill(0), counts = new Map();
  for (const [t, p, images] of cells) { sums[t] += images; counts.set(t * n + p, images); }
  const fraction = (t, p) => (counts.get(t * n + p) ?? 0) / (sums[t] || 1);
  const about = `Rows are the true classes, columns the predicted ones. Colours are fractions of the ${counted} of the true class.`;
  const told = (e, t, p) => tip(e.clientX, e.clientY, counted, [["truth", short(classes[t])], ["predicted", short(classes[p])],
    [counted, count(counts.get(t * n + p) ?? 0)], ["of the true class", share(fraction(t, p))]]);
  if (n <= MOST_TABLE) {
    $("matrix-text").textContent = about;
    const large = cells.some(([, , images]) => images >= 100_000);
    const shown = (t, p) => { const images = counts.get(t * n + p) ?? 0; return images ? (large ? percent(fraction(t, p)) : count(images)) : ""; };
    const cell = (t, p) => {
      const f = fraction(t, p), strength = f ? Math.round(8 + 92 * f) : 0;
      const colour = t === p ? "--c0" : "--c1";
      return make("td", { class: t === p ? "right" : "", onpointermove: (e) => told(e, t, p), onpointerleave: hide,
        style: `background:color-mix(in srgb, var(${colour}) ${strength}%, var(--panel));${strength > 55 ? "color:var(--paper)" : ""}` }, shown(t, p));
    };
    $("matrix-host").replaceChildren(make("div", { class: "scroll" }, make("table", { class: "matrix" },
      make("thead", {}, make("tr", {}, make("th", {}, "truth ↓"), ...classes.map((name) => make("th", { scope: "col", title: name }, make("span", {}, name))))),
      make("tbody", {}, ...classes.map((name, t) => make("tr", {}, make("th", { scope: "row", title: name }, name), ...classes.map((_, p) => cell(t, p))))))));
    return;
  }
  $("matrix-text").textContent = `${about} Point at a cell for its figures; confusion.csv has all of them.`;
  // A small image is drawn larger by the browser; a large one has one pixel a cell.
  const canvas = make("canvas", { width: n, height: n, role: "img", "aria-label": "Confusion matrix" });
  const paint = () => {
    const style = getComputedStyle(root), rgb = (name) => [1, 3, 5].map((i) => parseInt(style.getPropertyValue(name).trim().slice(i, i + 2), 16));
    const base = rgb("--panel"), right = rgb("--c0"), wrong = rgb("--c1");
    const pixels = new ImageData(n, n);
    for (let i = 0; i < n * n; i++) pixels.data.set([...base, 255], 4 * i);
    for (const [t, p] of cells) {
      const strength = 0.25 + 0.75 * fraction(t, p), full = t === p ? right : wrong;
      pixels.data.set(base.map((b, i) => b + strength * (full[i] - b)), 4 * (t * n + p));
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  };
  paint();
  new MutationObserver(paint).observe(root, { attributeFilter: ["data-theme"] });
  canvas.addEventListener("pointermove", (e) => {
    const box = canvas.getBoundingClientRect(), at = (v, from, size) => Math.max(0, Math.min(n - 1, Math.floor((v - from) / size * n)));
    told(e, at(e.clientY, box.top, box.height), at(e.clientX, box.left, box.width));
  });
  canvas.addEventListener("pointerleave", hide);
  $("matrix-host").replaceChildren(make("div", { class: "picture" }, make("span", { class: "axis" }, "predicted →"), canvas, make("span", { class: "axis" }, "↑ truth, downwards")));
}

// ---- images --------------------------------------------------------------------------------------------------------
const images = [];
function photo(source, label) {
  if (!source) return make("div", { class: "photo" }, "no image");
  const image = make("img", { src: source, alt: label });
  images.push(image.decode().then(() => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < 48)));
  return make("div", { class: "photo" }, image);
}
function confusions() {
  $("confusion-panels").replaceChildren(...data.top_confusions.map((c) => make("div", { class: "panel" },
    make("h3", {}, `${c.truth} → ${c.predicted}`),
    make("p", { class: "quiet" }, `${plural(c.images, "image")}, ${percent(c.share)} of ${short(c.truth)}`),
    make("div", { class: "thumbs" }, ...c.examples.map((e) => make("figure", { title: e.path }, photo(e.image, c.truth),
      make("figcaption", {}, percent(e.probability))))))));
}
function mistakes() {
  if (multiLabel) $("mistakes-text").textContent = "Labels that an image wrongly gets, with the highest probabilities, and labels that it wrongly lacks, with the lowest. Some of them may be wrong labels.";
  $("mistake-list").replaceChildren(...data.confident_mistakes.map((m) => make("figure", { title: m.path }, photo(m.image, m.truth ?? m.label),
    make("figcaption", {}, multiLabel ? make("b", {}, `${short(m.label)} ${percent(m.probability)}`) : make("b", {}, `${short(m.predicted)} ${percent(m.probability)}`), multiLabel ? `truth: ${m.present ? "has it" : "lacks it"}` : `truth: ${short(m.truth)} ${percent(m.truth_probability)}`, make("br"),
      make("span", { class: "quiet" }, short(basename(m.path)))))));
}
function worst() {
  const segmentation = data.task === "segmentation";
  $("worst-text").textContent = segmentation
    ? "The images with the lowest mean IoU over their classes: truth on the left, prediction on the right."
    : "The images with the lowest F1 at IoU 0.5, among boxes with a score of 0.5 or more: truth on the left, prediction on the right.";
  $("worst-legend").replaceChildren(...Object.entries(data.colours ?? {}).map(([name, colour]) =>
    make("span", { title: name }, make("i", { style: `background:${colour}` }), short(name))));
  const figures = (w) => segmentation ? `mean IoU ${share(w.score)}` : `F1 ${share(w.score)}: ${w.found} found, ${w.missed} missed, ${w.false} false`;
  $("worst-list").replaceChildren(...data.worst.map((w) => make("div", { class: "pair" },
    make("h3", { title: w.path }, `${basename(w.path)} · ${figures(w)}`),
    make("div", {}, ...["truth", "prediction"].map((key) => make("figure", {}, make("img", { src: w[key], alt: key }), make("figcaption", {}, key)))))));
}

// ---- start ---------------------------------------------------------------------------------------------------------
document.title = `${data.model} on ${data.data}`;
$("title").textContent = `${data.model} on ${data.data}`;
$("subtitle").textContent = `${data.description} · ${data.checkpoint} · ranges are 95% intervals over images`;
tiles();
notes();
const sections = [["classes", true, classTable], ["curves", data.curves && Object.keys(data.curves).length, curves],
  ["confusions", data.top_confusions?.length, confusions], ["matrix", data.confusion, matrix], ["calibration", data.calibration, calibration],
  ["mistakes", data.confident_mistakes?.length, mistakes], ["worst", data.worst?.length, worst]];
for (const [id, there, draw] of sections) {
  if (!there) { $(id).hidden = true; continue; }
  draw();
  $("nav").append(make("a", { href: `#${id}` }, $(id).dataset.nav));
}
$("footer").textContent = `Evaluated ${plural(data.images, "image")} in ${data.seconds.toFixed(1)} seconds. ` +
  (classification || multiLabel ? "predictions.csv has each image's prediction." : "images.csv has each image's figures.");
Promise.all(images).then(() => { root.dataset.ready = "yes"; });
}
