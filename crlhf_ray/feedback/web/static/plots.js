// Small plots as SVG. Each has a text alternative.
"use strict";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const WIDTH = 420, LEFT = 34, RIGHT = 412;

function frame(height, label, top, ...marks) {
  const line = (y) => svg("line", { class: "axis", x1: LEFT, x2: RIGHT, y1: y, y2: y });
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label },
    line(12), line(height - 18), svg("text", { x: 2, y: 16, text: top }), svg("text", { x: 2, y: height - 14, text: "0" }), ...marks);
}

function bars(values, label) {
  const most = Math.max(1, ...values), step = (RIGHT - LEFT) / values.length;
  return frame(150, label, String(most), ...values.map((value, i) =>
    svg("rect", { class: "bar1", x: LEFT + i * step + 0.5, y: 132 - (120 * value) / most, width: Math.max(step - 1, 1), height: (120 * value) / most },
      svg("title", { text: `${values.length - 1 - i} minutes ago: ${value}` }))));
}

// series: [{class number, points: [{x, y, low, high}]}], y from 0 to 1.
function curves(series, label, xText) {
  const xs = series.flatMap((one) => one.points.map((point) => point.x));
  const low = Math.min(...xs), span = Math.max(...xs) - low || 1;
  const at = (point, y) => `${LEFT + ((RIGHT - LEFT) * (point.x - low)) / span},${132 - 120 * y}`;
  return frame(150, label, "1", svg("text", { x: LEFT, y: 146, text: xText }), ...series.flatMap((one) => [
    ...(one.points.some((p) => p.low !== undefined)
      ? [svg("polygon", { class: `band${one.number}`, points: [...one.points.map((p) => at(p, p.low)), ...[...one.points].reverse().map((p) => at(p, p.high))].join(" ") })] : []),
    svg("polyline", { class: `line${one.number}`, points: one.points.map((p) => at(p, p.y)).join(" ") }),
    ...one.points.map((p) => svg("circle", { class: `dot${one.number}`, r: 2.5, cx: at(p, p.y).split(",")[0], cy: at(p, p.y).split(",")[1] }, svg("title", { text: `${p.y.toFixed(3)}` }))),
  ]));
}

// people: [{name, sensitivity, sensitivity_low, ...}]; one row each, intervals from 0 to 1.
function intervals(people, label) {
  const height = 30 + 26 * Math.max(people.length, 1), x = (p) => 110 + (RIGHT - 110) * p;
  const part = (person, name, y, number) => [
    svg("line", { class: `line${number}`, x1: x(person[name + "_low"]), x2: x(person[name + "_high"]), y1: y, y2: y }),
    number === 1 ? svg("circle", { class: "dot1", r: 4, cx: x(person[name]), cy: y }) : svg("rect", { class: "dot2", x: x(person[name]) - 3, y: y - 3, width: 6, height: 6, transform: `rotate(45 ${x(person[name])} ${y})` }),
  ];
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label },
    ...people.flatMap((person, i) => [
      svg("text", { x: 2, y: 26 + 26 * i, text: person.name.slice(0, 16) }), ...part(person, "sensitivity", 18 + 26 * i, 1), ...part(person, "specificity", 28 + 26 * i, 2)]),
    ...[0, 0.5, 1].map((p) => svg("text", { x: x(p) - 6, y: height - 4, text: p })));
}
