// One page, no library: data in two script elements, charts as SVG, single images on canvases.
(async () => {
const data = JSON.parse($("data").textContent);
const byPath = Object.fromEntries(data.blocks.map((block) => [block.path, block]));
const rowOf = new Map(data.shown.map((k, i) => [k, i]));
const className = (k) => data.classes[k].name;
const DASHES = ["", "6 3", "2 2", "9 3 2 3", "4 2", "1 3"];
const MOST = DASHES.length;

const three = (value) => value.toFixed(3);
const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);

// ---- class curves: see `packed` in curves.py -----------------------------------------------------------------------
// Browsers decompress asynchronously, and a page can be captured or printed before that ends. So small reports are stored
// as they are, and all their charts are drawn before the page counts as loaded.
const small = data.plain_curves;
async function unpack() {
  let planes = Uint8Array.from(atob($("curves").textContent), (c) => c.charCodeAt(0));
  if (!small) planes = new Uint8Array(await new Response(new Blob([planes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  const length = planes.length / 2;
  const numbers = new Int16Array(length);
  for (let i = 0; i < length; i++) numbers[i] = planes[i] | (planes[length + i] << 8);
  const found = {};
  let at = 0;
  for (const [path, curve] of Object.entries(data.curves)) {
    const size = data.shown.length * curve.channels.length;
    found[path] = { mean: numbers.subarray(at, at + size), spread: numbers.subarray(at + size, at + 2 * size) };
    at += 2 * size;
  }
  return found;
}
const packed = await unpack();
function classCurve(path, k) {
  const { channels, mean } = data.curves[path];
  const from = rowOf.get(k) * channels.length;
  return {
    mean: mean.map((m, i) => (m + packed[path].mean[from + i]) / 1000),
    spread: mean.map((_, i) => packed[path].spread[from + i] / 1000),
  };
}

// ---- selection -----------------------------------------------------------------------------------------------------
const ends = data.blocks.filter((b, i) => i + 1 === data.blocks.length || data.blocks[i + 1].stage !== b.stage);
const last = data.blocks.at(-1).stage;
// The paper's panels. With too many of them the ends of the stages, and of these at most 12, evenly spaced.
let paper = data.blocks.filter((b) => ends.includes(b) || b.stage === last).map((b) => b.path);
if (paper.length > 12) paper = ends.map((b) => b.path);
if (paper.length > 12) paper = Array.from({ length: 12 }, (_, i) => paper[Math.round((i * (paper.length - 1)) / 11)]);
const seen = new Set(data.shown);
const state = { classes: data.chosen.filter((k) => seen.has(k)).slice(0, MOST), blocks: paper, key: null, down: false, image: 0 };
if (!state.classes.length) state.classes = data.shown.slice(0, 1);

// ---- charts --------------------------------------------------------------------------------------------------------
const WIDE = 380, HIGH = 190, LEFT = 34, RIGHT = 6, TOP = 8, BOTTOM = 26;
function chart({ series, count: n, range, label, head, ticks }) {
  const [low, high] = range;
  const x = (i) => LEFT + ((WIDE - LEFT - RIGHT) * (n > 1 ? i / (n - 1) : 0.5));
  const y = (v) => TOP + (HIGH - TOP - BOTTOM) * (1 - (v - low) / (high - low));
  const svg = make("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", tabindex: "0", "aria-label": label });
  for (let t = 0; t <= 4; t++) {
    const value = low + ((high - low) * t) / 4;
    svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(high - low > 0.4 ? 2 : 3)));
  }
  for (const [i, text, anchor] of ticks) svg.append(make("text", { x: x(i), y: HIGH - 10, "text-anchor": anchor }, text));
  for (const s of series) {
    if (s.band) {
      const up = s.values.map((v, i) => `${x(i).toFixed(1)},${y(Math.min(high, v + s.band[i])).toFixed(1)}`);
      const down = s.values.map((v, i) => `${x(i).toFixed(1)},${y(Math.max(low, v - s.band[i])).toFixed(1)}`).reverse();
      svg.append(make("path", { d: `M${up.join("L")}L${down.join("L")}Z`, style: `fill:var(${s.colour})`, "fill-opacity": 0.22 }));
    }
    const d = "M" + s.values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join("L");
    svg.append(make("path", { d, fill: "none", "stroke-width": s.wide ? 2.4 : 1.5, "stroke-dasharray": s.dash || null,
      "stroke-linejoin": "round", style: `stroke:var(${s.colour})`, "data-series": s.name }));
  }
  const cursor = make("line", { class: "cursor", y1: TOP, y2: HIGH - BOTTOM, x1: -9, x2: -9 });
  svg.append(cursor);
  let at = 0;
  const point = (i, left, top) => {
    at = Math.max(0, Math.min(n - 1, i));
    cursor.setAttribute("x1", x(at)); cursor.setAttribute("x2", x(at));
    tip(left, top, head(at), series.flatMap((s) => [[s.name, (s.format || three)(s.values[at]), s.colour],
      ...(s.band ? [["standard deviation", three(s.band[at]), null]] : [])]));
  };
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    const inside = ((e.clientX - box.left) / box.width) * WIDE;
    point(Math.round(((inside - LEFT) / (WIDE - LEFT - RIGHT)) * (n - 1)), e.clientX, e.clientY);
  });
  svg.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!step) return;
    e.preventDefault();
    const box = svg.getBoundingClientRect();
    point(at + step, box.left + (x(Math.max(0, Math.min(n - 1, at + step))) / WIDE) * box.width, box.top + box.height / 2);
  });
  const leave = () => { $("tip").hidden = true; cursor.setAttribute("x1", -9); cursor.setAttribute("x2", -9); };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  return svg;
}
function range(values) {
  let low = Math.min(...values), high = Math.max(...values);
  if ($("unit").checked && low >= 0 && high <= 1 && high > 0.01) return [0, 1];
  if ($("unit").checked && low >= 0 && high <= 2 && high > 0.01) return [0, 2];
  const room = Math.max(0.01, (high - low) * 0.06);
  return [low - room, high + room];
}
function panel(path, series) {
  const block = byPath[path], { channels, mean } = data.curves[path];
  const order = channels.map((_, i) => i);
  if ($("ordered").checked) order.sort((a, b) => mean[a] - mean[b]);
  const sorted = series.map((s) => ({ ...s, values: order.map((i) => s.values[i]), band: s.band && order.map((i) => s.band[i]) }));
  const edges = sorted.flatMap((s) => s.band ? s.values.flatMap((v, i) => [v - s.band[i], v + s.band[i]]) : s.values);
  if (edges.length && $("unit").checked) edges.splice(0, edges.length, ...sorted.flatMap((s) => s.values));
  const n = channels.length;
  const some = n < block.channels ? `${n} of ${block.channels} channels` : `${n} channels`;
  const ticks = $("ordered").checked ? [[0, "least", "start"], [n - 1, "most", "end"]]
    : [[0, `channel ${channels[0]}`, "start"], [n - 1, `${channels[n - 1]}`, "end"]];
  return make("div", { class: "panel", "data-block": path },
    make("h3", {}, block.name, make("small", {}, ` · ${some} · ${block.role}`)),
    chart({ series: sorted, count: n, range: range(edges), ticks, label: `Gates of ${block.name}`,
      head: (i) => `${block.name}, channel ${channels[order[i]]}` }));
}
const colour = (i) => `--c${i}`;
const overall = (path) => ({ name: "all images", values: data.curves[path].mean.map((m) => m / 1000), colour: "--all", wide: true });

// Fifty charts at once would block a phone. Charts near the screen are drawn first, all others while the browser is idle,
// and the rest at once when the page is printed.
const pending = new Set();
const idle = window.requestIdleCallback ?? ((task) => setTimeout(() => task({ timeRemaining: () => 0 }), 20));
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) drawPanel(target);
}, { rootMargin: "600px" });
function forget(panel) { watcher.unobserve(panel); return pending.delete(panel); }
function drawPanel(panel) { if (forget(panel)) panel.replaceWith(panel.draw()); }
function drawAll() { pending.forEach(drawPanel); }
function drawWhenIdle(deadline) {
  for (const panel of pending) {
    drawPanel(panel);
    if (deadline.timeRemaining() < 4) break;
  }
  if (pending.size) idle(drawWhenIdle);
}
function lazily(host, paths, draw) {
  [...host.children].forEach(forget);
  if (!pending.size) idle(drawWhenIdle);
  host.replaceChildren(...paths.map((path) => {
    const empty = make("div", { class: "panel", style: "min-height:235px", "data-block": path });
    empty.draw = () => draw(path);
    pending.add(empty);
    watcher.observe(empty);
    return empty;
  }));
  if (printing.matches) drawAll();
}
const printing = matchMedia("print");
printing.addEventListener("change", () => { if (printing.matches) drawAll(); });
addEventListener("beforeprint", drawAll);

// ---- sections ------------------------------------------------------------------------------------------------------
function figures() {
  $("chosen").replaceChildren(...state.classes.map((k, i) => make("button", { type: "button", title: "remove", style: `color:var(${colour(i)})`,
    "data-class": className(k), onclick: () => { state.classes = state.classes.filter((c) => c !== k); figures(); } }, `${className(k)} ×`)));
  $("class-input").disabled = state.classes.length >= MOST;
  $("class-input").placeholder = state.classes.length >= MOST ? `at most ${MOST}` : "add a class";
  const key = (name, c, dash, wide) => make("span", {}, make("svg", { viewBox: "0 0 28 8", style: "width:28px" },
    make("line", { x1: 0, x2: 28, y1: 4, y2: 4, style: `stroke:var(${c})`, "stroke-width": wide ? 2.6 : 1.8, "stroke-dasharray": dash || null })), name);
  $("legend").replaceChildren(key("all images", "--all", "", true), ...state.classes.map((k, i) => key(className(k), colour(i), DASHES[i])));
  lazily($("figure6"), state.blocks, (path) => {
    const all = overall(path), series = [all, ...state.classes.map((k, i) =>
      ({ name: className(k), values: classCurve(path, k).mean, colour: colour(i), dash: DASHES[i] }))];
    const less = $("less").checked ? all.values : null;
    return panel(path, less ? series.map((s) => ({ ...s, format: signed, values: s.values.map((v, i) => v - less[i]) })) : series);
  });
  const k7 = Number($("class7").value);
  lazily($("figure7"), state.blocks, (path) => {
    const curve = classCurve(path, k7);
    return panel(path, [{ name: className(k7), values: curve.mean, band: curve.spread, colour: colour(0) }]);
  });
  for (const button of $("block-list").querySelectorAll("button")) button.setAttribute("aria-pressed", state.blocks.includes(button.value));
  for (const row of $("table").tBodies[0].rows) row.classList.toggle("shown", state.blocks.includes(row.dataset.block));
}
function toggle(path) {
  const chosen = new Set(state.blocks);
  if (!chosen.delete(path)) chosen.add(path);
  state.blocks = data.blocks.map((b) => b.path).filter((p) => chosen.has(p));
  $("preset").value = "own";
  figures();
}

const COLUMNS = [
  ["name", "block", null, "Path in the network"], ["stage", "stage", String, "Blocks whose feature maps have the same size"],
  ["channels", "channels", count, ""], ["mean", "mean", three, "Mean gate over images and channels"],
  ["spread", "spread", three, "Standard deviation over the images"],
  ["channel_spread", "between channels", three, "Standard deviation of the channels' means"],
  ["dead", "dead", percent, "Fraction of gates below 0.05"], ["saturated", "saturated", percent, "Fraction of gates above 0.95"],
  ["specificity", "class-specific", percent, "Variance between classes over the variance over all images"],
  ["specificity_corrected", "corrected", percent, "Class-specific, corrected for chance (epsilon squared)"],
  ["role", "role", null, ""], ["params", "parameters", count, ""], ["macs", "MACs", count, "Multiply-accumulates (MACs) for one image"],
  ["latency_share", "time", percent, "Measured fraction of the network's time"],
  ["drift", "drift", percent, "Drift of the outputs if this gate alone becomes its mean"],
];
function table() {
  const rows = [...data.blocks];
  if (state.key) {
    const value = (b) => b[state.key] ?? -1;
    rows.sort((a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0) * (state.down ? -1 : 1));
  }
  $("table").tHead.replaceChildren(make("tr", {}, ...COLUMNS.map(([key, head, format, title]) => make("th", {
    scope: "col", title, class: key === "role" ? "text" : "", "aria-sort": state.key === key ? (state.down ? "descending" : "ascending") : "none" },
    make("button", { type: "button", "data-key": key, onclick: () => {
      // Numbers start with the largest. A third click restores the network's order.
      const first = format !== null;
      if (state.key !== key) Object.assign(state, { key, down: first });
      else if (state.down === first) state.down = !first;
      else state.key = null;
      table();
      $("table").tHead.querySelector(`[data-key="${key}"]`).focus();
    } }, head)))));
  $("table").tBodies[0].replaceChildren(...rows.map((b) => make("tr", { "data-block": b.path, title: b.path, onclick: () => toggle(b.path),
    class: state.blocks.includes(b.path) ? "shown" : "" }, ...COLUMNS.map(([key, , format]) => {
    const value = b[key];
    const text = value === null ? "–" : format ? format(value) : value;
    const bar = key.startsWith("specificity") && value !== null ? [make("span", { class: "bar", style: `width:${(40 * value).toFixed(1)}px` })] : [];
    return make("td", { class: key === "role" ? "text" : "", "data-key": key }, ...bar, text);
  }))));
}
function overview() {
  const n = data.blocks.length, step = Math.max(20, Math.min(44, 900 / n)), wide = 54 + step * n, high = 250;
  const top = Math.max(1, ...data.blocks.map((b) => b.mean + b.channel_spread));
  const y = (v) => 12 + 120 * (1 - Math.max(0, v) / top), y2 = (v) => 226 - 70 * v;
  const svg = make("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": "Mean gate and class-specificity of each block",
    style: `min-width:${0.75 * wide}px;max-height:330px` });
  for (const v of [0, top / 2, top]) svg.append(make("line", { class: "grid", x1: 40, x2: wide, y1: y(v), y2: y(v) }), make("text", { x: 34, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(2)));
  for (const v of [0, 0.5, 1]) svg.append(make("line", { class: "grid", x1: 40, x2: wide, y1: y2(v), y2: y2(v) }), make("text", { x: 34, y: y2(v) + 4, "text-anchor": "end" }, `${100 * v}%`));
  data.blocks.forEach((b, i) => {
    const x = 46 + step * (i + 0.5);
    if (i === 0 || data.blocks[i - 1].stage !== b.stage) svg.append(
      make("line", { class: "grid", x1: x - step / 2, x2: x - step / 2, y1: 6, y2: 236 }), make("text", { x: x - step / 2 + 3, y: 247 }, n / last > 1.5 || i === 0 ? `stage ${b.stage}` : ""));
    const show = (e) => tip(e.clientX, e.clientY, b.name, [["mean", three(b.mean)], ["spread over images", three(b.spread)],
      ["class-specific", percent(b.specificity)], ["dead / saturated", `${percent(b.dead)} / ${percent(b.saturated)}`], ["role", b.role]]);
    svg.append(make("g", { onpointermove: show, onpointerleave: () => { $("tip").hidden = true; }, onclick: () => toggle(b.path), style: "cursor:pointer" },
      make("rect", { x: x - step / 2, y: 6, width: step, height: 230, fill: "transparent" }),
      make("line", { x1: x, x2: x, y1: y(b.mean - b.channel_spread), y2: y(b.mean + b.channel_spread), style: "stroke:var(--c0)", "stroke-width": Math.min(8, step / 3), "stroke-opacity": 0.45 }),
      make("circle", { cx: x, cy: y(b.mean), r: Math.min(5, step / 4), style: "fill:var(--c0)" }),
      make("rect", { x: x - Math.min(10, step / 3), width: Math.min(20, step / 1.5), y: y2(b.specificity), height: 226 - y2(b.specificity), style: "fill:var(--c1)" })));
  });
  $("overview").replaceChildren(svg);
}

// ---- single images -------------------------------------------------------------------------------------------------
const CIVIDIS = [[0, 32, 77], [61, 78, 108], [123, 122, 119], [188, 175, 111], [255, 234, 70]];
function cividis(v) {
  const at = Math.min(3.999, 4 * v), i = Math.floor(at), part = at - i;
  return CIVIDIS[i].map((c, j) => c + part * (CIVIDIS[i + 1][j] - c));
}
function overlay(picture, heat) {
  const canvas = make("canvas", { width: 224, height: Math.round((224 * picture.naturalHeight) / picture.naturalWidth) });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = picture.naturalWidth > 64;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (!heat || !$("heat").checked) return canvas;
  const [h, w] = heat.size, bytes = atob(heat.values), small = make("canvas", { width: w, height: h }), pixels = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) {
    const v = bytes.charCodeAt(i) / 255;
    pixels.data.set([...cividis(v), 90 + 110 * v], 4 * i);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = true;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  return canvas;
}
async function image() {
  if (!data.examples.length) { $("single").hidden = true; return; }
  for (const [i, button] of [...$("thumbs").children].entries()) button.setAttribute("aria-pressed", i === state.image);
  const example = data.examples[state.image], path = $("image-block").value, picture = new Image();
  picture.src = example.image;
  await picture.decode();
  const gate = example.spatial[path];
  const predicted = example.prediction === null ? "" : `predicted: ${example.prediction} (${percent(example.probability)})`;
  const row = (name, channels) => [make("h3", {}, name), make("div", { class: "row" }, ...channels.map((c) => make("figure", {}, overlay(picture, c.heat),
    make("figcaption", {}, `channel ${c.channel}`, make("br"), `${three(c.gate)}, mean ${three(c.mean)}`))))];
  $("image").replaceChildren(
    make("div", { class: "whole" },
      make("figure", {}, overlay(picture, example.heat), make("figcaption", {}, make("b", {}, example.label), make("br"), predicted)),
      ...(gate ? [make("figure", { class: "gate" }, overlay(picture, gate.heat), make("figcaption", {}, "gate by position", make("br"),
        `${three(gate.least)} to ${three(gate.largest)}`))] : [])),
    make("div", { class: "maps" }, ...(["raised", "lowered"].flatMap((way) => example[way][path].length
      ? row(way === "raised" ? "Raised" : "Lowered", example[way][path]) : [make("p", { class: "quiet" }, `No channel is ${way}.`)]))));
}

// ---- freezing ------------------------------------------------------------------------------------------------------
function freezing() {
  const { images, steps } = data.freezing;
  if (!steps.length) { $("freezing").hidden = true; return; }
  const end = steps.at(-1);
  $("freezing-text").textContent = `Gates are replaced by their means over all images, in the order of increasing spread, as in senet prune. Measured on ${images} images. ` +
    `All gates together save ${count(end.params)} of ${count(data.params)} parameters (${percent(end.params / data.params)}) and ${count(end.macs)} MACs. ` +
    `The outputs drift by ${percent(end.drift)}, and ${percent(end.agreement)} of the images keep their predicted class.`;
  const values = (key) => steps.map((s) => s[key]);
  $("freezing-chart").replaceChildren(make("div", { class: "panel" }, make("h3", {}, "Cost", make("small", {}, " · by number of frozen gates")), chart({
    series: [{ name: "images that keep their class", values: values("agreement"), colour: "--c0", format: percent, wide: true },
      { name: "drift of the outputs", values: values("drift"), colour: "--c1", dash: "6 3", format: percent }],
    count: steps.length, range: [0, Math.max(1, ...values("drift"))], label: "Cost of freezing", ticks: [[0, "1 gate", "start"], [steps.length - 1, `${steps.length} gates`, "end"]],
    head: (i) => `${i + 1} frozen, ${count(steps[i].params)} parameters saved` }),
    make("div", { class: "legend", style: "position:static;background:none" }, make("span", { style: "color:var(--c0)" }, "— keep their class"), make("span", { style: "color:var(--c1)" }, "- - drift"))));
  const heads = ["block", "parameters saved", "MACs saved", "drift", "keep their class"];
  $("steps").tHead.replaceChildren(make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h))));
  $("steps").tBodies[0].replaceChildren(...steps.map((s) => make("tr", {}, ...[byPath[s.block].name, count(s.params), count(s.macs), percent(s.drift), percent(s.agreement)].map((t) => make("td", {}, t)))));
}

// ---- start ---------------------------------------------------------------------------------------------------------
document.title = `Gates of ${data.network}`;
$("title").textContent = `Gates of ${data.network}`;
$("subtitle").textContent = `${count(data.images)} images of ${data.data} · ${count(data.classes.length)} classes · ${data.blocks.length} blocks · ` +
  `${count(data.params)} parameters, ${percent(data.blocks.reduce((sum, b) => sum + b.params, 0) / data.params)} of them in gates · ${percent(data.blocks.reduce((sum, b) => sum + b.latency_share, 0))} of the time`;
$("findings").replaceChildren(...data.findings.map((f) => make("li", { class: f.level }, ...(f.level === "alarm" ? [make("b", {}, "! ")] : []), f.text)));
const known = data.shown.filter((k) => data.classes[k].images);
$("class-list").replaceChildren(...known.map((k) => make("option", { value: className(k) })));
$("class7").replaceChildren(...known.map((k) => make("option", { value: k }, className(k))));
$("class7").value = state.classes[0];
$("class7").onchange = figures;
const addClass = () => {
  const k = known.find((c) => className(c) === $("class-input").value.trim());
  if (k === undefined) return;
  if (!state.classes.includes(k)) state.classes.push(k);
  $("class-input").value = "";
  figures();
};
$("class-input").oninput = (e) => { if (e.inputType === "insertReplacementText" || e.inputType === undefined) addClass(); };
$("class-input").onchange = addClass;
$("preset").onchange = () => { state.blocks = $("preset").value === "all" ? data.blocks.map((b) => b.path) : paper; figures(); };
$("ordered").onchange = $("unit").onchange = $("less").onchange = figures;
$("block-list").replaceChildren(...data.blocks.flatMap((b, i) => [
  ...(i === 0 || data.blocks[i - 1].stage !== b.stage ? [make("span", { class: "stage" }, `stage ${b.stage}`)] : []),
  make("button", { type: "button", value: b.path, onclick: () => toggle(b.path) }, b.name)]));
$("image-block").replaceChildren(...data.blocks.map((b) => make("option", { value: b.path }, b.name)));
$("image-block").value = data.blocks.at(-1).path;
$("image-block").onchange = $("heat").onchange = image;
$("thumbs").replaceChildren(...data.examples.map((e, i) => make("button", { type: "button", onclick: () => { state.image = i; image(); } },
  make("img", { src: e.image, alt: "" }), make("span", {}, e.label))));
$("footer").textContent = `Variances are over images. Class-specific is the variance of the classes' means over the variance over all images. One image takes ${data.latency_ms.toPrecision(3)} ms in a small batch on this machine.` +
  (data.shown.length < data.classes.filter((c) => c.images).length ? ` Curves are stored for ${count(data.shown.length)} of ${count(data.classes.length)} classes.` : "");
overview();
table();
figures();
if (small) drawAll();
freezing();
await image();
root.dataset.ready = "yes";
})();
