"use strict";
// Draws the curves of the page into SVG. The data is the JSON in #curves: a list of runs, each
// with columns of numbers (null where a number is missing).
(() => {
  const runs = JSON.parse(document.getElementById("curves").textContent);
  const charts = document.getElementById("charts");
  const state = { x: "update", log: false, hidden: new Set() };
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
  const AXIS = { update: "update", samples: "samples", seconds: "time spent training" };

  const number = (value) => value === null ? "not finite" : String(+value.toPrecision(4));
  const count = (value) => Math.round(value).toLocaleString("en-US");
  const duration = (seconds) => {
    const s = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
    return seconds < 10 ? `${+seconds.toFixed(2)} s`
      : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  };
  const onAxis = (value) => state.x === "seconds" ? duration(value) : count(value);

  // Curves ------------------------------------------------------------------------------------
  // A curve: name, colour, dash, x (columns by axis), y, and how to draw it.
  const manyRuns = runs.length > 1;
  const title = (run, what) => manyRuns ? `${run.name}: ${what}` : what;
  const columns = (source) => ({
    update: source.update, samples: source.samples, seconds: source.seconds });

  function curvesOf(pick) {
    return runs.flatMap((run, r) => pick(run).map((curve, n) => ({
      ...curve,
      colour: `var(--run${(manyRuns ? r : n) % 6})`,
      dash: DASHES[(manyRuns ? n : 0) % DASHES.length],
      key: title(run, curve.what),
    })));
  }
  const tests = (run, loss) => run.tests.filter((test) => test.is_loss === loss)
    .map((test) => ({ what: `test ${test.name}`, x: columns(test), y: test.value, dots: true }));
  const figures = [
    { title: "Loss", large: true, log: true,
      curves: curvesOf((run) => [
        { what: "training loss", x: columns(run), y: run.loss, smooth: true }, ...tests(run, true)]) },
    { title: "Test outputs", large: true, curves: curvesOf((run) => tests(run, false)) },
    { title: "Learning rate", zero: true,
      curves: curvesOf((run) => [
        { what: "learning rate", x: columns(run), y: run.learning_rate, steps: true }]) },
    { title: "Effective batch", zero: true,  // runs of files as they are have none
      curves: curvesOf((run) => run.effective_batch.every((batch) => batch === null) ? [] : [
        { what: "effective batch", x: columns(run), y: run.effective_batch, steps: true }]) },
  ];

  // A centred moving mean over 2 % of the records; missing values are left out.
  function smoothed(y) {
    const half = Math.floor(Math.round(y.length * 0.02) / 2);
    if (half < 1) return y;
    const sums = [0], counts = [0];
    y.forEach((value, i) => {
      sums.push(sums[i] + (value === null ? 0 : value));
      counts.push(counts[i] + (value === null ? 0 : 1));
    });
    return y.map((_, i) => {
      const a = Math.max(0, i - half), b = Math.min(y.length, i + half + 1);
      const n = counts[b] - counts[a];
      return n ? (sums[b] - sums[a]) / n : null;
    });
  }

  // Scales ------------------------------------------------------------------------------------
  function niceTicks(low, high, wanted) {
    const raw = (high - low) / wanted || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
      ticks.push(i * step || 0);  // not -0
    }
    return ticks;
  }
  function timeTicks(low, high, wanted) {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600,
      43200, 86400];
    const raw = (high - low) / wanted, step = steps.find((s) => s >= raw);
    if (raw < 1 || !step) return niceTicks(low, high, wanted);
    return Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step)
      .filter((t) => t >= low);
  }
  function logTicks(low, high) {
    const ticks = [], decades = Math.log10(high / low);
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const m of decades > 2 ? [1] : [1, 2, 5]) {
        const value = m * 10 ** e;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    }
    const every = Math.ceil(ticks.length / 8);
    return ticks.filter((_, i) => i % every === 0);
  }
  const short = (value) => {
    const size = Math.abs(value);
    return value !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1).replace(".0e", "e")
      : size >= 1e4 ? count(value) : String(+value.toPrecision(3));
  };

  // Drawing -----------------------------------------------------------------------------------
  const NS = "http://www.w3.org/2000/svg";
  function svg(name, attributes, parent) {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  }

  // A range with some air around it; down to zero where that is near.
  function widened(low, high) {
    if (high - low <= 1e-9 * Math.abs(high)) return [Math.min(low, 0), Math.max(high * 1.1, 0) || 1];
    const air = (high - low) * 0.04;
    return [low >= 0 && low < 6 * air ? 0 : low - air, high + air];
  }

  // The points of a line; with more than the pixels can show, the extremes of each pixel.
  function points(x, y, toX, toY, ok) {
    const out = [];
    const dense = x.length > 4 * 1200;
    let column = null, low = null, high = null;
    const leave = () => {
      if (column === null) return;
      out.push([column, low], ...(high === low ? [] : [[column, high]]));
      column = null;
    };
    for (let i = 0; i < x.length; i++) {
      if (!ok(y[i])) { leave(); out.push(null); continue; }
      const px = toX(x[i]), py = toY(y[i]);
      if (!dense) { out.push([px, py]); continue; }
      const at = Math.round(px);
      if (at !== column) { leave(); column = at; low = high = py; }
      low = Math.min(low, py); high = Math.max(high, py);
    }
    leave();
    return out;
  }
  function path(list, steps) {
    let text = "", pen = false;
    for (const point of list) {
      if (!point) { pen = false; continue; }
      const [x, y] = point.map((v) => v.toFixed(1));
      text += !pen ? `M${x} ${y}` : steps ? `H${x}V${y}` : `L${x} ${y}`;
      pen = true;
    }
    return text;
  }

  function draw(figure) {
    const { box, plot } = figure, width = plot.clientWidth, height = figure.large ? 330 : 210;
    plot.replaceChildren();
    if (!width) return;
    const shown = figure.curves.filter((curve) => !state.hidden.has(curve.key));
    const log = figure.log && state.log;
    const ok = (value) => value !== null && value !== undefined && (!log || value > 0);
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const curve of present.flatMap((each) => each.curves)) {  // one range for all figures
      if (state.hidden.has(curve.key)) continue;
      for (const value of curve.x[state.x]) { x0 = Math.min(x0, value); x1 = Math.max(x1, value); }
    }
    const notes = [];
    for (const curve of shown) {
      if (curve.smooth) {
        const { above, first } = lossRange(curve.y);
        if (above) notes.push(`${above === 1 ? "the first value lies" : `the first ${above} values lie`}`
          + ` above, up to ${number(first)}`);
      }
      for (const value of curve.smooth ? robust(curve) : figure.log ? inRange(curve) : curve.y) {
        if (ok(value)) { y0 = Math.min(y0, value); y1 = Math.max(y1, value); }
      }
    }
    if (x0 > x1 || y0 > y1) {
      plot.append(Object.assign(document.createElement("p"),
        { className: "quiet", textContent: "Nothing was measured so far." }));
      figure.scale = null;
      return;
    }
    if (figure.zero) y0 = 0;
    if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
    [y0, y1] = log ? [y0 / 1.1, y1 * 1.1] : widened(y0, y1);
    const flat = (value) => log ? Math.log(value) : value;
    const ticks = log ? logTicks(y0, y1) : niceTicks(y0, y1, figure.large ? 6 : 4);
    const left = 14 + 7 * Math.max(...ticks.map((tick) => short(tick).length), 2), right = 14;
    const top = 8, bottom = height - 38;
    const toX = (v) => left + (v - x0) / (x1 - x0) * (width - left - right);
    const toY = (v) => bottom - (flat(v) - flat(y0)) / (flat(y1) - flat(y0)) * (bottom - top);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": figure.title }, plot);
    const clip = `clip-${figures.indexOf(figure)}`;
    svg("rect", { x: left, y: top - 4, width: width - left - right, height: bottom - top + 8 },
      svg("clipPath", { id: clip }, root));
    for (const tick of ticks) {
      const y = toY(tick).toFixed(1);
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }, root);
      svg("text", { x: left - 6, y: +y + 4, "text-anchor": "end" }, root).textContent = short(tick);
    }
    const many = Math.max(3, Math.floor((width - left) / 100));
    const xTicks = state.x === "seconds" ? timeTicks(x0, x1, many) : niceTicks(x0, x1, many);
    for (const tick of xTicks) {
      if (state.x !== "seconds" && tick !== Math.round(tick)) continue;
      const x = toX(tick);
      svg("line", { class: "grid", x1: x, x2: x, y1: bottom, y2: bottom + 4 }, root);
      svg("text", { x, y: bottom + 17, "text-anchor": x > width - 40 ? "end" : "middle" }, root)
        .textContent = onAxis(tick);
    }
    svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, root)
      .textContent = AXIS[state.x];
    const area = svg("g", { fill: "none", "clip-path": `url(#${clip})` }, root);
    for (const curve of shown) {
      const x = curve.x[state.x], line = (y, attributes) => {
        const list = points(x, y, toX, toY, ok);
        svg("path", { d: path(list, curve.steps), stroke: curve.colour, "stroke-linejoin": "round",
          ...attributes }, area);
        return list;
      };
      if (curve.smooth && curve.mean !== curve.y) line(curve.y, { "stroke-width": 1, opacity: 0.28 });
      const list = line(curve.smooth ? curve.mean : curve.y,
        { "stroke-width": curve.smooth ? 2 : 1.6, "stroke-dasharray": curve.dash });
      if (list.length === 1 || (curve.dots && list.length <= 60)) {
        for (const point of list.filter(Boolean)) {
          svg("circle", { cx: point[0], cy: point[1], r: 2.6, fill: curve.colour }, area);
        }
      }
    }
    notes.forEach((note, n) => {
      svg("text", { x: left + 30, y: top + 12 + 16 * n }, root).textContent = `\u2191 ${note}`;
    });
    const cross = svg("line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" }, root);
    figure.scale = { x0, x1, left, right, width, toX, cross, shown };
  }

  // The range of losses that is shown: high first values don't press the rest to the floor
  // (loss_range.py does the same).
  function lossRange(values) {
    const finite = values.filter((value) => value !== null);
    const least = (list) => list.reduce((a, b) => Math.min(a, b), Infinity);
    const most = (list) => list.reduce((a, b) => Math.max(a, b), -Infinity);
    const whole = { low: least(finite), high: most(finite), above: 0, first: null };
    if (finite.length < 8) return whole;
    let start = Math.max(1, Math.floor(finite.length * 0.05));
    const low = least(finite.slice(start));
    let high = most(finite.slice(start));
    while (start && finite[start - 1] <= high + 0.25 * (high - low)) {
      start -= 1;
      high = Math.max(high, finite[start]);
    }
    if (high === low || whole.high - high <= 3 * (high - low)) return whole;
    const outside = finite.slice(0, start).filter((value) => value > high);
    return { low: whole.low, high, above: outside.length, first: most(outside) };
  }
  function inRange(curve) {
    const { low, high } = lossRange(curve.y);
    return curve.y.filter((value) => value !== null && value >= low && value <= high);
  }

  // The range of the y axis follows the mean, and all but the wildest records.
  function robust(curve) {
    const { high, above } = lossRange(curve.mean);
    const inside = (value) => value !== null && (!above || value <= high);
    const early = above ? Math.max(1, Math.floor(curve.y.length * 0.05)) : 0;
    const known = curve.y.slice(early).filter((value) => value !== null).sort((a, b) => a - b);
    const cut = Math.floor(known.length * 0.002);
    return [...curve.mean.filter(inside), ...known.slice(cut, known.length - cut)];
  }

  function nearest(x, value) {
    let low = 0, high = x.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] < value) low = middle + 1; else high = middle;
    }
    return low > 0 && value - x[low - 1] < x[low] - value ? low - 1 : low;
  }

  function hover(figure, event) {
    const { scale, tip, plot } = figure;
    if (!scale) return;
    const at = event.clientX - plot.getBoundingClientRect().left;
    const value = scale.x0 + (at - scale.left) / (scale.width - scale.left - scale.right)
      * (scale.x1 - scale.x0);
    const rows = [];
    let place = null;
    for (const curve of scale.shown) {
      const x = curve.x[state.x];
      if (!x.length) continue;
      const i = nearest(x, value);
      if (place === null) place = x[i];
      if (curve.y[i] === undefined) continue;
      const where = x[i] === place ? "" : ` (at ${onAxis(x[i])})`;
      rows.push([curve.colour, curve.key, number(curve.y[i]), where]);
    }
    if (place === null) return;
    tip.replaceChildren(Object.assign(document.createElement("div"),
      { className: "quiet", textContent: `${AXIS[state.x]} ${onAxis(place)}` }));
    for (const [colour, key, text, where] of rows) {
      const row = document.createElement("div"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour;
      const strong = Object.assign(document.createElement("b"), { textContent: text });
      row.append(swatch, `${key} `, strong, where);
      tip.append(row);
    }
    const x = scale.toX(place);
    scale.cross.setAttribute("x1", x);
    scale.cross.setAttribute("x2", x);
    scale.cross.setAttribute("visibility", "visible");
    tip.hidden = false;
    const inside = plot.offsetLeft + x;
    tip.style.top = `${plot.offsetTop + 12}px`;
    tip.style.left = inside < figure.box.clientWidth / 2 ? `${inside + 12}px` : "auto";
    tip.style.right = inside < figure.box.clientWidth / 2 ? "auto"
      : `${figure.box.clientWidth - inside + 12}px`;
  }
  function leave(figure) {
    figure.tip.hidden = true;
    if (figure.scale) figure.scale.cross.setAttribute("visibility", "hidden");
  }

  function legend(figure) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const curve of figure.curves) {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        if (box.checked) state.hidden.delete(curve.key); else state.hidden.add(curve.key);
        drawAll();
      });
      const label = document.createElement("label");
      const mark = svg("svg", { viewBox: "0 0 26 10" });
      svg("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: curve.colour, "stroke-width": 2.5,
        "stroke-dasharray": curve.dash }, mark);
      label.append(box, mark, curve.key);
      const item = document.createElement("li");
      item.append(label);
      list.append(item);
    }
    return list;
  }

  function build(figure) {
    const box = document.createElement("article");
    box.className = figure.large ? "chart large" : "chart";
    const plot = document.createElement("div"), tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    box.append(Object.assign(document.createElement("h3"), { textContent: figure.title }), plot,
      legend(figure), tip);
    Object.assign(figure, { box, plot, tip });
    for (const curve of figure.curves) if (curve.smooth) curve.mean = smoothed(curve.y);
    plot.addEventListener("pointermove", (event) => hover(figure, event));
    plot.addEventListener("pointerdown", (event) => hover(figure, event));
    plot.addEventListener("pointerleave", () => leave(figure));
    charts.append(box);
  }

  function drawAll() { present.forEach(draw); }
  const present = figures.filter((figure) => figure.curves.length);
  present.forEach(build);
  document.querySelectorAll("input[name=x]").forEach((radio) =>
    radio.addEventListener("change", () => { state.x = radio.value; drawAll(); }));
  document.getElementById("log").addEventListener("change", (event) => {
    state.log = event.target.checked;
    drawAll();
  });
  // Logarithmic from the start where a linear axis would show a flat line.
  const ranges = figures[0].curves.map((curve) => lossRange(curve.mean || curve.y))
    .filter((range) => range.low <= range.high);
  const least = ranges.reduce((a, range) => Math.min(a, range.low), Infinity);
  const most = ranges.reduce((a, range) => Math.max(a, range.high), 0);
  state.log = document.getElementById("log").checked = least > 0 && most > 30 * least;
  let width = 0;
  new ResizeObserver(() => {
    if (charts.clientWidth !== width) { width = charts.clientWidth; drawAll(); }
  }).observe(charts);
})();
