// Small plots as SVG, drawn into an element as wide as it is. Each has its numbers as text: a label for screen readers
// and titles under the pointer.
"use strict";

const LEFT = 46, TOP = 34, BOTTOM = 40, MARGIN = 14;
const HEIGHT = 220;
const PERCENT = [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: percent(at) }));

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const title = (text) => svg("title", { text });
const scale = (low, high, from, to) => (value) => from + ((to - from) * (value - low)) / (high - low || 1);

// A step of 1, 2 or 5 times a power of ten that cuts what is to be shown into about so many parts.
function niceStep(most, parts) {
  const rough = most / parts, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

function timeTicks(low, high, parts) {
  const far = high - low > 86400;
  const text = (at) => new Date(1000 * at).toLocaleString([], far ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return Array.from({ length: parts + 1 }, (_, i) => low + ((high - low) * i) / parts).map((at) => ({ at, text: text(at) }));
}

function marker(number, x, y, text) {
  const place = number === 1 ? { cx: x, cy: y, r: 4 } : { x: x - 3.5, y: y - 3.5, width: 7, height: 7, transform: `rotate(45 ${x} ${y})` };
  return svg(number === 1 ? "circle" : "rect", { class: `dot${number}`, ...place }, title(text));
}

// Names of the series, drawn as they are in the plot. names: [[number, text], ...]
function legend(names, band, width) {
  let x = LEFT;
  return svg("g", {}, ...names.flatMap(([number, text]) => {
    const parts = [svg("line", { class: `line${number}`, x1: x, x2: x + 26, y1: 12, y2: 12 }), marker(number, x + 13, 12, text), svg("text", { x: x + 32, y: 16, text })];
    x += 48 + 7 * text.length;
    return parts;
  }), ...(band && x + 6.5 * band.length < width ? [svg("text", { class: "quiet", x, y: 16, text: band })] : []));
}

// A frame with axes. x, y: {low, high, ticks: [{at, text}], title}. draw(x, y) makes what is inside.
function plot(into, label, height, x, y, names, band, draw, left = LEFT) {
  const width = Math.max(into.clientWidth, 260), right = width - MARGIN, base = height - BOTTOM;
  const px = scale(x.low, x.high, left, right), py = scale(y.low, y.high, base, TOP);
  into.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    legend(names, band, width),
    ...y.ticks.flatMap(({ at, text }) => [svg("line", { class: "grid", x1: left, x2: right, y1: py(at), y2: py(at) }), svg("text", { x: left - 6, y: py(at) + 4, "text-anchor": "end", text })]),
    ...x.ticks.flatMap(({ at, text }, i) => [svg("line", { class: "axis", x1: px(at), x2: px(at), y1: base, y2: base + 4 }),
      svg("text", { x: px(at), y: base + 17, "text-anchor": x.ticks.length > 1 && i === x.ticks.length - 1 ? "end" : "middle", text })]),
    svg("line", { class: "axis", x1: left, x2: right, y1: base, y2: base }),
    svg("text", { class: "quiet", x: (left + right) / 2, y: height - 6, "text-anchor": "middle", text: x.title }),
    ...draw(px, py, base)));
}

// values: one a minute, the present last.
function pacePlot(into, values) {
  const most = Math.max(4, ...values), step = Math.max(1, niceStep(most, 4)), high = step * Math.ceil(most / step);
  const ticks = Array.from({ length: high / step + 1 }, (_, i) => ({ at: i * step, text: String(i * step) }));
  const ago = [60, 45, 30, 15, 0].map((minutes) => ({ at: values.length - minutes, text: minutes ? `−${minutes}` : "now" }));
  const total = values.reduce((a, b) => a + b, 0);
  plot(into, `Marks a minute over the last hour: ${total} in all, ${Math.max(...values)} at most`, HEIGHT,
    { low: 0, high: values.length, ticks: ago, title: "minutes" }, { low: 0, high, ticks }, [], `${total} in the last hour`,
    (px, py, base) => values.map((value, i) => svg("g", { class: "hit" },
      svg("rect", { class: "back", x: px(i), y: TOP, width: px(1) - px(0), height: base - TOP }),
      svg("rect", { class: "bar1", x: px(i) + 0.5, y: py(value), width: Math.max(px(1) - px(0) - 1, 1), height: base - py(value) }),
      title(`${values.length - 1 - i} to ${values.length - i} minutes ago: ${value} marks`))));
}

// points: [{round, correction_rate}].
function roundsPlot(into, points) {
  const low = points[0].round, high = Math.max(points.at(-1).round, low + 1), step = Math.max(1, niceStep(high - low, 8));
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push({ at, text: String(at) });
  plot(into, `Correction rate by round: ${points.map((p) => `${p.round}: ${percent(p.correction_rate)}`).join(", ")}`, HEIGHT,
    { low: low - 0.3, high: high + 0.3, ticks, title: "round" }, { low: 0, high: 1, ticks: PERCENT }, [[1, "mean of the round's programs"]], "",
    (px, py) => [svg("polyline", { class: "line1", points: points.map((p) => `${px(p.round)},${py(p.correction_rate)}`).join(" ") }),
      ...points.map((p) => marker(1, px(p.round), py(p.correction_rate), `Round ${p.round}: ${percent(p.correction_rate)}`))]);
}

const RATES = [[1, "sensitivity"], [2, "specificity"]];
const interval = (row, name) => `${percent(row[name])} (${percent(row[name + "_low"])} to ${percent(row[name + "_high"])})`;

// points: [{at, sensitivity, sensitivity_low, sensitivity_high, specificity, ...}], oldest first.
function curvePlot(into, who, points) {
  const low = points[0].at, high = Math.max(points.at(-1).at, low + 60), last = points.at(-1);
  plot(into, `${who}, now: ${RATES.map(([, name]) => `${name} ${interval(last, name)}`).join(", ")}`, 300,
    { low, high, ticks: timeTicks(low, high, 4), title: "time" }, { low: 0, high: 1, ticks: PERCENT }, RATES, "shaded: 95% intervals",
    (px, py) => RATES.flatMap(([number, name]) => {
      const line = (key, list) => list.map((p) => `${px(p.at)},${py(p[key])}`);
      return [
        svg("polygon", { class: `band${number}`, points: [...line(`${name}_low`, points), ...line(`${name}_high`, [...points].reverse())].join(" ") }),
        svg("polyline", { class: `line${number}`, points: line(name, points).join(" ") }),
        ...points.map((p) => marker(number, px(p.at), py(p[name]), `${new Date(1000 * p.at).toLocaleString()}: ${name} ${interval(p, name)}`)),
      ];
    }));
}

// people: [{name, sensitivity, sensitivity_low, ...}]: a row each.
function peoplePlot(into, people) {
  const row = 34, height = TOP + BOTTOM + row * people.length, names = Math.min(130, 0.3 * into.clientWidth);
  const y = people.map((person, i) => ({ at: i + 0.5, text: person.name.length > 16 ? person.name.slice(0, 15) + "…" : person.name }));
  plot(into, people.map((person) => `${person.name}: ${RATES.map(([, name]) => `${name} ${interval(person, name)}`).join(", ")}`).join("; "), height,
    { low: 0, high: 1, ticks: PERCENT, title: "share of lines seen as they are" }, { low: people.length, high: 0, ticks: y }, RATES, "",
    (px, py) => people.flatMap((person, i) => RATES.flatMap(([number, name]) => {
      const at = py(i + 0.5) + (number === 1 ? -6 : 6);
      return [svg("line", { class: `line${number}`, x1: px(person[name + "_low"]), x2: px(person[name + "_high"]), y1: at, y2: at }),
        marker(number, px(person[name]), at, `${person.name}: ${name} ${interval(person, name)}`)];
    })), names);
}
