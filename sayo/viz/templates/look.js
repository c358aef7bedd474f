"use strict";
const looks = []; // one per response; their controls move together
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const highest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const shared = JSON.parse(document.getElementById("shared").textContent), colors = bytes(shared.colors);

function makeLook(data, suffix) {
  const $ = (id) => document.getElementById(id + suffix);
  const count = data.tokens.length, rowsPerEntry = data.rows, cells = data.image_size;
  const names = { region: "region", image: "image", question: "question", response: "response so far" };
  const inks = { region: "#d55e00", image: "#0072b2", question: "#009e73", response: "#7c5295", entropy: "#b8860b" };
  const state = { layer: 0, head: -1, row: 0, // layer 0 is the mean over the layers, head -1 that over the heads
    paint: data.share_names.includes("region") ? "region" : "image",
    held: -1, hover: -1, sink: false, contrast: "linear", peak: "all", style: "spotlight", drawn: null };

  // ---- numbers ----
  const shares = data.maps.map((map) => floats(map.shares)), footprints = floats(data.footprints);
  const shown = () => (state.hover >= 0 ? state.hover : state.held); // -1: the whole response
  const entryIndex = () => (state.head < 0 ? state.layer : data.heads[state.layer] + state.head);
  const percent = (v) => (100 * v).toFixed(v < 0.0995 ? 2 : 1) + "\u00a0%";
  const pixels = (v) => String(Math.round(10 * v) / 10);

  function share(name, token, entry = entryIndex()) {
    const group = data.share_names.indexOf(name);
    return shares[entry][group * rowsPerEntry + token + state.row];
  }

  // ---- maps: unpacked when first looked at ----
  const unpacked = new Map();
  function entryMaps(index) {
    if (!unpacked.has(index)) {
      const stream = new Blob([bytes(data.maps[index].codes)]).stream().pipeThrough(new DecompressionStream("deflate"));
      unpacked.set(index, new Response(stream).arrayBuffer().then((buffer) => (
        { codes: new Uint8Array(buffer), scales: floats(data.maps[index].scales) })));
    }
    return unpacked.get(index);
  }
  function addRow(map, row, weight, out) {
    const factor = weight * map.scales[row] / (data.levels * data.levels);
    for (let n = 0; n < cells; n++) {
      const code = map.codes[row * cells + n];
      out[n] += factor * code * code;
    }
  }
  async function valuesOf(token) {
    const map = await entryMaps(entryIndex()), values = new Float32Array(cells);
    if (token >= 0) addRow(map, token + state.row, 1, values);
    else for (let t = 0; t < count; t++) addRow(map, t + state.row, data.weights[t], values);
    return values;
  }
  async function peakOf(token) { // the highest value of all tokens' maps; a whole response is a mean, with its own
    if (token < 0) return highest(await valuesOf(-1));
    return highest((await entryMaps(entryIndex())).scales.subarray(state.row, state.row + count));
  }
  async function currentMap() {
    const token = shown(), values = await valuesOf(token);
    const peaks = state.peak === "own" ? [highest(values)] : await Promise.all(looks.map((look) => look.peakOf(token)));
    return { values, peak: Math.max(...peaks) };
  }

  // ---- pictures ----
  const make = (tag, options = {}, parent = null) => {
    const node = Object.assign(document.createElement(tag), options);
    if (parent) parent.append(node);
    return node;
  };
  const makeSvg = (tag, attributes, parent, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    node.textContent = text;
    parent.append(node);
    return node;
  };
  const panels = [...$("panels").querySelectorAll(".stack")].map((stack, index) => {
    const image = { width: Number(stack.dataset.width), height: Number(stack.dataset.height) };
    const zoom = 800 / Math.max(image.width, image.height);
    const canvas = make("canvas", { width: Math.round(image.width * zoom), height: Math.round(image.height * zoom) });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "How much attention each part of the picture gets");
    stack.insertBefore(canvas, stack.querySelector("svg"));
    const tokens = data.panel_of.flatMap((of, n) => (of === index ? [n] : []));
    stack.addEventListener("pointermove", (event) => describeCell(event, stack, image, tokens));
    stack.addEventListener("pointerleave", () => { $("cell").textContent = ""; });
    return { canvas, zoom, tokens };
  });

  const level = (value, peak) => {
    const part = peak > 0 ? Math.min(value / peak, 1) : 0;
    return Math.round(255 * (state.contrast === "sqrt" ? Math.sqrt(part) : part));
  };
  const color = (step) => `rgb(${colors[3 * step]},${colors[3 * step + 1]},${colors[3 * step + 2]}`;
  const veil = (step) => (state.style === "spotlight" ? `rgba(0,0,0,${shared.darkest * (1 - step / 255)})` // as sayo.draw
    : `${color(step)},${0.4 + 0.35 * step / 255})`);
  function paintPanel({ canvas, zoom, tokens }, { values, peak }) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = veil(0); // what no visual token sees
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const n of tokens) {
      const [x1, y1, x2, y2] = footprints.subarray(4 * n, 4 * n + 4).map((v) => Math.round(v * zoom));
      context.fillStyle = veil(level(values[n], peak));
      context.clearRect(x1, y1, x2 - x1, y2 - y1);
      context.fillRect(x1, y1, x2 - x1, y2 - y1);
    }
  }
  function paintScale() {
    const context = $("scale").getContext("2d");
    for (let i = 0; i < 256; i++) {
      const grey = 255 * (1 - shared.darkest * (1 - i / 255));
      context.fillStyle = state.style === "spotlight" ? `rgb(${grey},${grey},${grey})` : `${color(i)})`;
      context.fillRect(i, 0, 1, 1);
    }
  }
  let turn = 0;
  async function drawMaps() {
    const mine = ++turn, map = await currentMap();
    if (mine !== turn) return; // another token was asked for meanwhile
    state.drawn = map;
    for (const panel of panels) paintPanel(panel, map);
    $("peak-name").textContent = `${percent(map.peak)} of all attention in one visual token`;
    (suffix ? $("look") : document.body).dataset.drawn = `${shown()}/${entryIndex()}/${state.row}`;
  }
  function describeCell(event, stack, image, tokens) {
    const box = stack.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * image.width, y = (event.clientY - box.top) / box.height * image.height;
    const n = tokens.find((k) => x >= footprints[4 * k] && y >= footprints[4 * k + 1] && x < footprints[4 * k + 2] && y < footprints[4 * k + 3]);
    const [x1, y1, x2, y2] = n === undefined ? [] : footprints.subarray(4 * n, 4 * n + 4);
    $("cell").textContent = n === undefined || !state.drawn ? "" :
      `Visual token ${n}: ${percent(state.drawn.values[n])} of all attention; x ${pixels(x1)}–${pixels(x2)} px, y ${pixels(y1)}–${pixels(y2)} px`;
  }

  // ---- response ----
  const special = new Set(data.special);
  const quoted = (token) => (data.tokens[token] === "" ? "part of a character" : `“${data.tokens[token].replace(/\n/g, "↵").replace(/^ /, "␣")}”`);
  const spans = data.tokens.map((text, index) => {
    const span = make("span", { className: "t", id: `t${index}${suffix}` });
    span.setAttribute("role", "option");
    span.dataset.token = index;
    if (text === "") { // the first bytes of a character that the next token completes
      span.classList.add("mark");
      span.textContent = "·";
    } else {
      span.textContent = text.replace(/\n/g, "↵\n").replace(/[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
    }
    if (special.has(index)) span.classList.add("special");
    span.setAttribute("aria-label", `token ${index + 1} ${quoted(index)}`);
    $("tokens").append(span);
    return span;
  });

  function paintTokens() {
    const values = spans.map((_, t) => (state.paint === "entropy" ? data.entropy[t] : share(state.paint, t)));
    const most = highest(values);
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(inks[state.paint].slice(i, i + 2), 16));
    spans.forEach((span, t) => {
      span.style.backgroundColor = `rgba(${r},${g},${b},${most > 0 ? (0.72 * values[t] / most).toFixed(3) : 0})`;
    });
    const unit = state.paint === "entropy" ? `${most.toFixed(2)}\u00a0nats` : percent(most);
    $("paint-range").replaceChildren("0 ", make("i", { className: "ramp" }), unit);
    $("paint-range").querySelector("i").style.background = `linear-gradient(90deg, rgba(${r},${g},${b},0), rgba(${r},${g},${b},.72))`;
  }
  function markToken() {
    const token = shown();
    spans.forEach((span, t) => {
      span.classList.toggle("on", t === token);
      span.setAttribute("aria-selected", String(t === state.held));
    });
    if (token >= 0) $("tokens").setAttribute("aria-activedescendant", `t${token}${suffix}`);
    else $("tokens").removeAttribute("aria-activedescendant");
    $("whole").setAttribute("aria-pressed", String(token < 0));
  }
  function writeNumbers() {
    const token = shown(), entry = entryIndex(), all = spans.map((_, t) => t);
    const mean = (value) => (token >= 0 ? value(token) : all.reduce((sum, t) => sum + data.weights[t] * value(t), 0));
    const groups = data.share_names.filter((name) => name in names);
    const parts = groups.map((name) => `${names[name]} ${percent(mean((t) => share(name, t, entry)))}`);
    const disjoint = data.share_names.filter((name) => name !== "region");
    const rest = mean((t) => 1 - disjoint.reduce((sum, name) => sum + share(name, t, entry), 0));
    if (data.share_names.includes("prefix")) parts.push(`prefix ${percent(mean((t) => share("prefix", t, entry)))}`);
    parts.push(`other prompt ${percent(Math.max(rest, 0))}`, `entropy ${mean((t) => data.entropy[t]).toFixed(2)}\u00a0nats`);
    if (groups.includes("region")) {
      const density = mean((t) => share("region", t, entry)) / data.region_size / (mean((t) => share("image", t, entry)) / cells);
      parts.push(`a region token gets ${density.toFixed(2)} × the attention of a mean visual token`);
    }
    const title = token < 0 ? `Whole response, mean of ${count} tokens weighted by entropy` : `Token ${token + 1} of ${count} ${quoted(token)}`;
    $("numbers").replaceChildren(make("b", { textContent: title }), ": " + parts.join(" · ") + ".");
  }

  // ---- trend ----
  const trend = { left: 46, right: 8, top: 8, bottom: 24, height: 220, width: 0 };
  const trendX = (t) => trend.left + (count > 1 ? t / (count - 1) : 0.5) * (trend.width - trend.left - trend.right);
  function drawTrend() {
    const svg = $("trend"), entry = entryIndex();
    trend.width = svg.clientWidth;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${trend.width} ${trend.height}`);
    const drawn = Object.keys(names).filter((name) => data.share_names.includes(name));
    const value = (name, t) => share(name, t, entry) / (state.sink ? Math.max(1 - share("prefix", t, entry), 1e-9) : 1);
    const most = Math.max(...drawn.map((name) => spans.reduce((peak, _, t) => Math.max(peak, value(name, t)), 0)), 1e-6);
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25].find((s) => most / s <= 5) || 0.25;
    const top = step * Math.ceil(most / step - 1e-9), floor = trend.height - trend.bottom;
    const y = (v) => floor - v / top * (floor - trend.top);
    for (let v = 0; v <= top + 1e-9; v += step) {
      makeSvg("line", { class: "grid", x1: trend.left, x2: trend.width - trend.right, y1: y(v), y2: y(v) }, svg);
      makeSvg("text", { x: trend.left - 6, y: y(v) + 4, "text-anchor": "end" }, svg, `${+(100 * v).toFixed(1)} %`);
    }
    makeSvg("text", { x: trend.left, y: trend.height - 6 }, svg, "token 1");
    makeSvg("text", { x: trend.width - trend.right, y: trend.height - 6, "text-anchor": "end" }, svg, `token ${count}`);
    for (const name of drawn) {
      const points = spans.map((_, t) => `${trendX(t).toFixed(1)},${y(value(name, t)).toFixed(1)}`).join(" ");
      makeSvg("polyline", { points, stroke: inks[name] }, svg);
    }
    makeSvg("line", { class: "now", id: `now${suffix}`, y1: trend.top, y2: floor }, svg);
    $("lines").replaceChildren(...drawn.map((name) => {
      const item = make("span", { textContent: names[name] });
      const key = make("i");
      key.style.background = inks[name];
      item.prepend(key);
      return item;
    }));
    markTrend();
  }
  function markTrend() {
    const line = $("now"), token = shown();
    line.style.display = token < 0 ? "none" : "";
    if (token >= 0) { line.setAttribute("x1", trendX(token)); line.setAttribute("x2", trendX(token)); }
  }

  // ---- controls ----
  function showToken() { markToken(); writeNumbers(); markTrend(); drawMaps(); }
  function showAll() { paintTokens(); drawTrend(); showToken(); }
  const hasMean = data.layers.length > 1, first = hasMean ? 0 : 1; // of the slider: the mean, or the only layer
  const heads = () => (state.layer in data.heads ? [...Array(data.num_heads).keys()] : []);
  const set = { // what each control does; what it then shows
    layer(position) {
      state.layer = Math.min(Math.max(Number(position), first), data.layers.length);
      const name = state.layer === 0 ? `mean of ${data.layers.length} layers` : String(data.layers[state.layer - 1]);
      $("layer-name").textContent = name;
      $("layer").setAttribute("aria-valuetext", name);
      if (!heads().includes(state.head)) state.head = -1;
      const why = state.layer === 0 ? " (choose a layer for one)" : heads().length ? "" : " (the page holds no single ones here)";
      $("head").replaceChildren(make("option", { value: -1, textContent: `mean of all${why}` }),
        ...heads().map((head) => make("option", { value: head, textContent: `head ${head}` })));
      $("head").value = state.head;
      $("head").disabled = heads().length === 0;
      showAll();
      return state.layer;
    },
    head(head) { if (heads().includes(Number(head)) || head < 0) state.head = Number(head); showAll(); return state.head; },
    rows(row) { state.row = Math.min(Number(row), data.rows - count); showAll(); return state.row; },
    peak(peak) { state.peak = peak; drawMaps(); return peak; },
    contrast(contrast) { state.contrast = contrast; drawMaps(); return contrast; },
    style(style) {
      state.style = style;
      $("panels").classList.toggle("heat", style === "heat");
      paintScale();
      drawMaps();
      return style;
    },
    bare(bare) { $("panels").classList.toggle("bare", bare); return bare; },
    paint(paint) { if (paint === "entropy" || data.share_names.includes(paint)) state.paint = paint; paintTokens(); return state.paint; },
    sink(sink) { state.sink = sink; drawTrend(); return sink; },
  };
  const control = (name, value) => {
    const shows = set[name](value), element = $(name);
    if (element) element[typeof shows === "boolean" ? "checked" : "value"] = shows;
  };
  function hold(token) {
    state.held = token;
    state.hover = -1;
    if (token >= 0) spans[token].scrollIntoView({ block: "nearest" });
    showToken();
  }
  for (const name of [...data.share_names.filter((n) => n === "region" || n === "image"), "entropy"])
    make("option", { value: name, textContent: name === "entropy" ? "entropy" : `attention on the ${name}` }, $("paint"));
  $("layer").max = data.layers.length;
  $("layer").min = first;
  $("layer").hidden = !hasMean;
  if (!data.share_names.includes("prefix")) $("sink").parentElement.remove();
  for (const name of Object.keys(set)) {
    $(name)?.addEventListener("input", ({ target }) => {
      for (const look of looks) look.control(name, target.type === "checkbox" ? target.checked : target.value);
      if (looks.length > 1) for (const look of looks) look.drawMaps(); // on one scale, which all of them make
    });
  }
  $("whole").addEventListener("click", () => hold(-1));
  const tokenOf = (event) => (event.target.dataset.token === undefined ? -1 : Number(event.target.dataset.token));
  const hover = (token) => { if (token !== state.hover) { state.hover = token; showToken(); } };
  $("tokens").addEventListener("pointerover", (e) => { if (e.pointerType !== "touch") hover(tokenOf(e)); });
  $("tokens").addEventListener("pointerleave", () => hover(-1));
  $("tokens").addEventListener("click", (e) => { const t = tokenOf(e); if (t >= 0) hold(t === state.held ? -1 : t); });
  const tokenAt = (event) => {
    const x = event.clientX - $("trend").getBoundingClientRect().left - trend.left;
    const t = Math.round(x / (trend.width - trend.left - trend.right) * (count - 1));
    return Math.min(Math.max(t, 0), count - 1);
  };
  $("trend").addEventListener("pointermove", (e) => { if (e.pointerType !== "touch") hover(tokenAt(e)); });
  $("trend").addEventListener("pointerleave", () => hover(-1));
  $("trend").addEventListener("click", (e) => hold(tokenAt(e)));
  $("tokens").addEventListener("keydown", (event) => { // elsewhere, keys scroll as everywhere
    const moves = {
      ArrowLeft: () => hold(Math.max(state.held - 1, 0)), ArrowRight: () => hold(Math.min(state.held + 1, count - 1)),
      Home: () => hold(0), End: () => hold(count - 1), Escape: () => hold(-1),
    };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  });
  state.paint = $("paint").value;
  new ResizeObserver(() => { if ($("trend").clientWidth !== trend.width) drawTrend(); }).observe($("trend"));
  return { control, drawMaps, peakOf, first };
}

document.querySelectorAll("script.data").forEach((script, index) => {
  looks.push(makeLook(JSON.parse(script.textContent), index ? `-${index + 1}` : ""));
});
for (const look of looks) {
  look.control("style", "spotlight");
  look.control("layer", look.first);
}
