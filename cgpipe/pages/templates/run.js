const data = JSON.parse(by("data").textContent);
const COLOURS = ["#3b6fd4", "#d9772b", "#3a9a5b", "#b3499c", "#8a6d2f", "#2a9fb0", "#c2413b", "#7a64c8"];
const SVG = "http://www.w3.org/2000/svg";
let marked = null;

function draw(tag, attributes, parent) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent?.append(element);
  return element;
}

function short(value) {
  const size = Math.abs(value);
  return size >= 1e4 ? (value / 1000).toFixed(0) + "k" : size >= 100 ? value.toFixed(0) : size >= 1 ? value.toFixed(2)
    : size >= 1e-3 || value === 0 ? value.toFixed(4).replace(/0+$/, "").replace(/\.$/, "") : value.toExponential(1);
}

// -- curves ------------------------------------------------------------------------------------------------------------

const WIDE = 340, TALL = 170, LEFT = 42, RIGHT = 6, TOP = 10, BOTTOM = 22;
const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.curves)))].sort((a, b) => (a === "learning_rate") - (b === "learning_rate"));
const last = Math.max(1, ...(data.epochs.length ? data.grids.flatMap((grid) => grid.at) : []), ...data.runs.flatMap((run) => Object.values(run.curves).map((curve) => curve.at(-1)[0])));
const charts = names.map((name) => {
  const figure = make("figure", "chart"), caption = make("figcaption", "", name.replaceAll("_", " ")), told = make("output");
  caption.append(told);
  const svg = draw("svg", {viewBox: `0 0 ${WIDE} ${TALL}`, preserveAspectRatio: "none", role: "img"});
  svg.setAttribute("aria-label", data.runs.filter((run) => run.curves[name]).map((run) =>
    `${run.name} ${name}: from ${short(run.curves[name][0][1])} to ${short(run.curves[name].at(-1)[1])}`).join("; "));
  figure.append(caption, svg);
  by("charts").append(figure);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    mark(last * Math.min(1, Math.max(0, ((event.clientX - box.left) / box.width * WIDE - LEFT) / (WIDE - LEFT - RIGHT))));
  });
  svg.addEventListener("pointerleave", () => mark(null));
  return {name, svg, told};
});

function smoothed(curve, weight) {
  let mean = curve[0][1];
  return curve.map(([step, value]) => [step, mean = weight * mean + (1 - weight) * value]);
}

function plot({name, svg}) {
  const weight = /^kid|learning_rate/.test(name) ? 0 : +by("smooth").value;
  const curves = data.runs.map((run) => run.curves[name]);
  const values = curves.flatMap((curve) => curve ? curve.map((point) => point[1]) : []).filter(Number.isFinite);
  const log = by("log").checked && values.every((value) => value > 0);
  const scale = (value) => log ? Math.log10(value) : value;
  let low = Math.min(...values.map(scale)), high = Math.max(...values.map(scale));
  if (low === high) { low -= Math.abs(low) / 2 || .5; high += Math.abs(high) / 2 || .5; }
  const x = (step) => LEFT + (WIDE - LEFT - RIGHT) * step / last;
  const y = (value) => TOP + (TALL - TOP - BOTTOM) * (high - scale(value)) / (high - low);
  svg.replaceChildren();
  for (const share of [0, .5, 1]) {
    const value = low + share * (high - low), at = TOP + (TALL - TOP - BOTTOM) * (1 - share);
    draw("line", {class: "axis", x1: LEFT, x2: WIDE - RIGHT, y1: at, y2: at}, svg);
    draw("text", {x: LEFT - 6, y: at + 4, "text-anchor": "end"}, svg).textContent = short(log ? 10 ** value : value);
    draw("text", {x: x(share * last), y: TALL - 5, "text-anchor": ["start", "middle", "end"][2 * share]}, svg).textContent = short(share * last);
  }
  const line = (curve) => curve.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  curves.forEach((curve, index) => {
    if (!curve) return;
    const stroke = COLOURS[index % COLOURS.length];
    if (weight && data.runs.length < 3) draw("polyline", {class: "raw", points: line(curve), stroke}, svg);
    draw("polyline", {class: "smooth", points: line(weight ? smoothed(curve, weight) : curve), stroke}, svg);
  });
  draw("line", {class: "at", y1: TOP, y2: TALL - BOTTOM, x1: 0, x2: 0, visibility: "hidden"}, svg);
}

function near(curve, step) {
  let low = 0, high = curve.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (curve[middle][0] < step) low = middle + 1; else high = middle; }
  return curve[low];
}

function mark(step) {
  const at = step ?? marked;
  for (const {name, svg, told} of charts) {
    const line = svg.querySelector(".at"), curves = data.runs.map((run) => run.curves[name]).filter(Boolean);
    const x = LEFT + (WIDE - LEFT - RIGHT) * (at ?? 0) / last;
    line.setAttribute("visibility", at === null ? "hidden" : "visible");
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    told.textContent = curves.map((curve) => short(at === null ? curve.at(-1)[1] : near(curve, at)[1])).join("  ");
  }
}

function redraw() { charts.forEach(plot); mark(null); }
for (const id of ["smooth", "log"]) by(id).addEventListener("input", redraw);
by("curves").hidden = !names.length;
redraw();
document.querySelectorAll("#runs tbody tr").forEach((row, index) => { row.querySelector(".key").style.background = COLOURS[index % COLOURS.length]; });

// -- grids over time ---------------------------------------------------------------------------------------------------

const over = data.epochs.length > 0;
for (const grid of data.grids) {
  const box = make("div"), bar = make("div", "bar"), slider = make("input"), said = make("span", "rest"), frame = make("p", "frame"), image = make("img");
  slider.type = "range"; slider.min = 0; slider.max = grid.from.length - 1; slider.value = over ? slider.max : 0;
  slider.setAttribute("aria-label", `${grid.name}, ${over ? "over time" : "which pictures"}`);
  slider.style.flex = "1 1 160px";
  const title = make("h2", "", grid.name);
  title.style.margin = "0";
  bar.style.margin = "28px 0 10px";
  bar.append(title, slider, said);
  if (grid.from.length < 2) slider.hidden = true;
  frame.append(image);
  box.append(bar, frame);
  by("grids").append(box);
  by("grids").hidden = false;
  const turn = () => {
    const at = grid.at[slider.value], epoch = data.epochs.findLast(([, step]) => step <= at)?.[0];
    const text = over ? `step ${at.toLocaleString()}${epoch === undefined ? "" : `, epoch ${epoch}`}` : `from picture ${at}`;
    said.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    image.alt = `${grid.name}, ${text}`;
    image.src = grid.from[slider.value];
    for (const side of [-1, 1]) { const next = grid.from[+slider.value + side]; if (next) new Image().src = next; }
    if (over) { marked = at; mark(null); }
  };
  slider.addEventListener("input", turn);
  turn();
}
