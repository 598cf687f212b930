const data = JSON.parse(by("data").textContent);
const all = data.entries;
const grid = by("grid");
const GAP = 10, CAPTION = 26;
const WORDS = {translated: "translated", skipped: "already done", failed: "failed", unsupported: "not read"};
let shown = [], rows = [], cells = new Map(), here = 0, fast = false;

all.forEach((entry, index) => { entry.index = index; entry.bad = entry.s === "failed" || entry.s === "unsupported"; });
const names = new Intl.Collator(undefined, {numeric: true});
const ORDER = {
  name: (a, b) => names.compare(a.n, b.n),
  most: (a, b) => (b.c ?? -1) - (a.c ?? -1),
  least: (a, b) => (a.c ?? 999) - (b.c ?? 999),
  large: (a, b) => b.w * b.h - a.w * a.h,
  order: (a, b) => a.index - b.index,
};

// -- what is shown -----------------------------------------------------------------------------------------------------

const FILTERS = [["all", "All", () => true], ["good", "Translated", (entry) => !entry.bad], ["bad", "Failed", (entry) => entry.bad]];
for (const [value, word, test] of FILTERS) {
  const label = make("label"), input = make("input");
  input.type = "radio"; input.name = "filter"; input.value = value; input.checked = value === "all";
  label.append(input, word, make("small", "", all.filter(test).length.toLocaleString()));
  by("filter").append(label);
}

function chosen(name) { return document.querySelector(`input[name=${name}]:checked`).value; }

function choose() {
  const sought = by("search").value.trim().toLowerCase();
  const test = FILTERS.find(([value]) => value === chosen("filter"))[2];
  shown = all.filter((entry) => test(entry) && (!sought || entry.n.toLowerCase().includes(sought)));
  shown.sort(ORDER[by("sort").value]);
  here = 0;
  by("shown").textContent = shown.length.toLocaleString() + (shown.length === 1 ? " picture" : " pictures");
  by("none").hidden = shown.length > 0;
  arrange();
}

// -- rows of one width, of which only those in sight are in the document -----------------------------------------------

function arrange() {
  const width = grid.clientWidth, view = chosen("view");
  const target = Math.min(+by("size").value, width / 1.6);
  const aspect = (entry) => Math.min(4, Math.max(.4, entry.w && entry.h ? entry.w / entry.h : 1.5)) * (view === "beside" && entry.c !== null ? 2 : 1);
  grid.className = view;
  rows = [];
  let top = 0, first = 0, sum = 0;
  const close = (last, height) => {
    let left = 0;
    const boxes = [];
    for (let i = first; i <= last; i++) {
      const wide = Math.min(width, aspect(shown[i]) * height);
      boxes.push([left, wide]);
      left += wide + GAP;
    }
    rows.push({top, height, first, boxes});
    top += height + CAPTION + GAP;
    first = last + 1; sum = 0;
  };
  for (let i = 0; i < shown.length; i++) {
    sum += aspect(shown[i]);
    const height = (width - GAP * (i - first)) / sum;
    if (height <= target) close(i, height);
  }
  if (first < shown.length) close(shown.length - 1, Math.min(target, (width - GAP * (shown.length - 1 - first)) / sum));
  grid.style.height = Math.max(0, top - GAP) + "px";
  for (const cell of cells.values()) cell.remove();
  cells.clear();
  draw();
}

function rowAt(y) {
  let low = 0, high = rows.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].top + rows[middle].height + CAPTION < y) low = middle + 1; else high = middle;
  }
  return low;
}

function draw() {
  const from = -grid.getBoundingClientRect().top, tall = innerHeight;
  const wanted = new Set();
  for (let r = rowAt(from - tall / 2); r < rows.length && rows[r].top < from + 1.5 * tall; r++) {
    const row = rows[r];
    row.boxes.forEach(([left, width], k) => {
      const i = row.first + k;
      wanted.add(i);
      if (!cells.has(i)) cells.set(i, grid.appendChild(cellOf(i, left, row.top, width, row.height)));
    });
  }
  for (const [i, cell] of cells) if (!wanted.has(i) && cell !== document.activeElement?.parentElement) { cell.remove(); cells.delete(i); }
  if (wanted.size && !cells.has(here)) mark(rows[rowAt(from)].first);  // Tab leads to what is in sight
}

function cellOf(i, left, top, width, height) {
  const entry = shown[i], cell = make("div", entry.bad ? "cell failed" : "cell");
  cell.setAttribute("role", "listitem");
  cell.setAttribute("aria-setsize", shown.length);
  cell.setAttribute("aria-posinset", i + 1);
  cell.style.cssText = `transform:translate(${left}px,${top}px);width:${width}px`;
  const button = make("button"), pair = pairOf(entry.x ? data.files + entry.t + "-before.jpg" : "", entry.y ? data.files + entry.t + "-after.jpg" : "");
  button.type = "button";
  button.tabIndex = i === here ? 0 : -1;
  button.dataset.i = i;
  button.setAttribute("aria-label", `${entry.n}, ${told(entry)}`);
  pair.style.height = height + "px";
  if (!entry.x && !entry.y) pair.append(make("span", "word", entry.r || "no picture"));
  if (entry.bad) pair.append(make("span", "badge", WORDS[entry.s]));
  const caption = make("div", "caption"), name = make("span", "name", entry.n);
  caption.append(name);
  if (entry.c !== null) caption.append(make("span", "", "Δ " + entry.c.toFixed(1)));
  caption.title = entry.n + (entry.c !== null ? `\nchanged by ${entry.c.toFixed(1)} of 255 on average` : "");
  button.append(pair, caption);
  cell.append(button);
  return cell;
}

function pairOf(before, after) {
  const pair = make("span", before && after ? "pair both" : "pair");
  for (const source of [before, after]) {
    if (!source) continue;
    const image = make("img");
    image.alt = ""; image.decoding = "async"; image.draggable = false;
    image[fast ? "later" : "src"] = source;
    pair.append(image);
  }
  return pair;
}

function told(entry) {
  return entry.bad ? `${WORDS[entry.s]}: ${entry.r}` : entry.c === null ? WORDS[entry.s] : `changed by ${entry.c.toFixed(1)} of 255`;
}

// Pictures that fly by are not loaded: they come where the scrolling slows down.
let waiting = false, last = scrollY, settling = 0;
function settle() {
  fast = false;
  for (const image of grid.getElementsByTagName("img")) if (image.later) { image.src = image.later; image.later = ""; }
}
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    fast = Math.abs(scrollY - last) > innerHeight / 8;
    last = scrollY;
    draw();
    clearTimeout(settling);
    if (fast) settling = setTimeout(settle, 90); else settle();
  });
}
addEventListener("scroll", later, {passive: true});
let wide = 0;
new ResizeObserver(() => { if (grid.clientWidth !== wide) { wide = grid.clientWidth; arrange(); } }).observe(grid);

grid.addEventListener("pointermove", (event) => {
  const pair = event.target.closest?.(".pair.both");
  if (!pair || event.pointerType === "touch") return;
  const box = pair.getBoundingClientRect();
  pair.style.setProperty("--cut", 100 * (event.clientX - box.left) / box.width + "%");
});
grid.addEventListener("pointerout", (event) => {
  const pair = event.target.closest?.(".pair.both");
  if (pair && !pair.contains(event.relatedTarget)) pair.style.removeProperty("--cut");
});
grid.addEventListener("click", (event) => { const button = event.target.closest("button"); if (button) show(+button.dataset.i); });
grid.addEventListener("focusin", (event) => { if (event.target.dataset.i) mark(+event.target.dataset.i); });
grid.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const row = rows.findIndex((r) => here >= r.first && here < r.first + r.boxes.length);
  const below = (step) => {
    const next = rows[row + step];
    if (!next) return here;
    const middle = rows[row].boxes[here - rows[row].first];
    const x = middle[0] + middle[1] / 2;
    const place = next.boxes.findIndex(([left, width]) => x <= left + width + GAP);
    return next.first + (place < 0 ? next.boxes.length - 1 : place);
  };
  const to = {ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: below(1), ArrowUp: below(-1), Home: 0, End: shown.length - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  focusOn(Math.min(shown.length - 1, Math.max(0, to)));
});

function mark(i) {
  const before = cells.get(here)?.firstChild;
  if (before) before.tabIndex = -1;
  here = i;
  const now = cells.get(i)?.firstChild;
  if (now) now.tabIndex = 0;
}

function focusOn(i) {
  const row = rows.find((r) => i >= r.first && i < r.first + r.boxes.length);
  const top = grid.getBoundingClientRect().top + row.top, bottom = top + row.height + CAPTION;
  const head = by("tools").getBoundingClientRect().height + 12;
  if (top < head) scrollBy(0, top - head);
  else if (bottom > innerHeight) scrollBy(0, bottom - innerHeight + 12);
  draw();
  mark(i);
  cells.get(i)?.firstChild.focus({preventScroll: true});
}

// -- one pair, large ---------------------------------------------------------------------------------------------------

const viewer = by("viewer"), stage = by("stage"), before = by("before"), after = by("after");
const setLine = divider(stage, by("divider"));
let at = 0, scale = 1, left = 0, top_ = 0, fitted = true;

function show(i) {
  at = i;
  const entry = shown[i];
  if (!viewer.open) { viewer.showModal(); setLine(50); }
  by("viewer-name").textContent = entry.n;
  by("viewer-count").textContent = `${(i + 1).toLocaleString()} of ${shown.length.toLocaleString()}`;
  by("previous").disabled = i === 0;
  by("next").disabled = i === shown.length - 1;
  by("said").textContent = entry.bad ? entry.r : "";
  stage.classList.toggle("alone", !(entry.x && entry.y));
  by("divider").hidden = !(entry.x && entry.y);
  for (const tag of stage.querySelectorAll(".tag")) tag.hidden = !(entry.x && entry.y);
  load(before, entry, entry.x, "-before", entry.a, `${entry.n} before`);
  load(after, entry, entry.y, "-after", entry.b, `${entry.n} after`);
  facts(entry);
  fit();
}

// Pictures of stores and archives do not open from a page, and those of web servers only when they are asked for.
const isHere = (source) => /^(\.|file:)/.test(source);
const isLink = (source) => isHere(source) || /^https?:(?!.*\.(zip|tar|tgz|tar\.gz)\/)/.test(source);

// The small picture at once, the large one as soon as it is there; the small one stays where there is no large one.
function load(image, entry, there, which, source, text) {
  image.hidden = !there;
  image.alt = text;
  if (!there) { image.removeAttribute("src"); return; }
  const small = data.files + entry.t + which + ".jpg";
  const large = entry.l.includes(which[1]) ? data.files + entry.t + which + "-large.jpg" : source;
  image.src = small;
  if (large === source && !isHere(source)) {
    by("said").textContent = "Not on this machine: thumbnails are shown.";
    return;
  }
  const whole = new Image();
  whole.onload = () => { if (shown[at] === entry) { image.src = large; } };
  whole.onerror = () => { if (shown[at] === entry) by("said").textContent = `The picture ${which.slice(1)} is not where it was: its thumbnail is shown.`; };
  whole.src = large;
}

function facts(entry) {
  const reduced = entry.l.length ? "shown reduced: browsers do not show this format" : "";
  const list = [
    ["Size", entry.w ? `${entry.w} × ${entry.h}` : ""],
    ["Changed", entry.c === null ? "" : `${entry.c.toFixed(1)} of 255 on average`],
    ["Result", WORDS[entry.s]],
    ["Read", entry.d ? `${(1000 * entry.d).toFixed(0)} ms` : ""],
    ["Written", entry.e ? `${(1000 * entry.e).toFixed(0)} ms` : ""],
    ["Not kept", entry.o.join(", ")],
    ["Here", reduced],
  ];
  const box = by("facts");
  box.replaceChildren();
  for (const [name, value] of list) {
    if (!value) continue;
    const line = make("div");
    line.append(make("dt", "", name), make("dd", "", value));
    box.append(line);
  }
  for (const [word, source, there] of [["Original", entry.a, entry.x], ["Translation", entry.b, entry.y]]) {
    if (!there) continue;
    const line = make("div"), link = make("a", "", word);
    link.href = source; link.target = "_blank"; link.rel = "noopener";
    if (isLink(source)) line.append(link);
    else line.append(make("dt", "", word), make("dd", "", decodeURI(source)));
    box.append(line);
  }
}

function sizeOf() {
  const entry = shown[at];
  return [entry.w || before.naturalWidth || 480, entry.h || before.naturalHeight || 320];
}

function place() {
  const [width, height] = sizeOf();
  const box = stage.getBoundingClientRect();
  const clamp = (offset, size, room) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, offset));
  left = clamp(left, width * scale, box.width);
  top_ = clamp(top_, height * scale, box.height);
  for (const image of [before, after]) {
    image.style.width = width + "px"; image.style.height = height + "px";
    image.style.transform = `translate(${left}px,${top_}px) scale(${scale})`;
    image.style.imageRendering = scale * devicePixelRatio >= 2 && !fitted ? "pixelated" : "auto";
  }
}

function smallest() {
  const [width, height] = sizeOf(), box = stage.getBoundingClientRect();
  return Math.min(box.width / width, box.height / height);
}

function fit() { fitted = true; scale = smallest(); place(); }

function zoom(to, x, y) {
  const box = stage.getBoundingClientRect(), least = Math.min(smallest(), 1 / devicePixelRatio);
  x = (x ?? box.left + box.width / 2) - box.left;
  y = (y ?? box.top + box.height / 2) - box.top;
  to = Math.min(32, Math.max(least, to));
  left = x - (x - left) * to / scale;
  top_ = y - (y - top_) * to / scale;
  scale = to; fitted = false;
  place();
}

function turn(step) { const to = at + step; if (to >= 0 && to < shown.length) show(to); }

by("previous").onclick = () => turn(-1);
by("next").onclick = () => turn(1);
by("smaller").onclick = () => zoom(scale / 1.5);
by("larger").onclick = () => zoom(scale * 1.5);
by("fit").onclick = fit;
by("pixels").onclick = () => zoom(1 / devicePixelRatio);
by("close").onclick = () => viewer.close();
viewer.addEventListener("close", () => { if (shown.length) focusOn(at); });
viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), "+": () => zoom(scale * 1.5), "=": () => zoom(scale * 1.5),
    "-": () => zoom(scale / 1.5), 0: fit, 1: () => zoom(1 / devicePixelRatio),
  }[event.key];
  if (does) { does(); event.preventDefault(); }
});
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(scale * Math.exp(-event.deltaY * (event.deltaMode ? .05 : .002)), event.clientX, event.clientY);
}, {passive: false});
stage.addEventListener("dblclick", (event) => fitted ? zoom(Math.max(4 / devicePixelRatio, 2 * scale), event.clientX, event.clientY) : fit());

// One finger or the mouse moves what is shown; two fingers enlarge it.
const fingers = new Map();
stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); fingers.set(event.pointerId, event); });
for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
stage.addEventListener("pointermove", (event) => {
  const last = fingers.get(event.pointerId);
  if (!last) return;
  const other = [...fingers.values()].find((one) => one.pointerId !== event.pointerId);
  if (other) {
    const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoom(scale * far(event) / Math.max(1, far(last)), (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
  } else {
    left += event.clientX - last.clientX;
    top_ += event.clientY - last.clientY;
    place();
  }
  fingers.set(event.pointerId, event);
});
addEventListener("resize", () => { if (viewer.open) fitted ? fit() : place(); });

for (const id of ["search", "sort", "filter"]) by(id).addEventListener("input", choose);
for (const id of ["view", "size"]) by(id).addEventListener("input", arrange);
wide = grid.clientWidth;
choose();
