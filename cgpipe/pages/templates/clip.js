const data = JSON.parse(by("data").textContent);
const stage = by("stage"), before = by("before"), after = by("after");
const frame = 1 / (data.rate || 25);
const both = data.before !== null;
divider(stage, by("divider"));
after.muted = true;
after.loop = true;
stage.classList.toggle("alone", !both);
for (const tag of stage.querySelectorAll(".tag")) tag.hidden = !both;
by("view").hidden = !both;

// -- the player: the translation leads, and the original keeps in step ------------------------------------------------

let stills = false, at = 0;

function shape(width, height) {
  const beside = stage.classList.contains("beside");
  stage.style.aspectRatio = `${(beside ? 2 : 1) * width} / ${height}`;
  stage.style.maxWidth = `calc(${beside ? 2 : 1} * 74vh * ${width / height})`;
  stage.style.margin = "0 auto";
}

function reshape() {
  const first = data.strip[0] || {w: 16, h: 9};
  shape(after.videoWidth || first.w, after.videoHeight || first.h);
}

function wanted() { return after.currentTime + data.start; }

function drift() { return both && !stills ? before.currentTime - wanted() : 0; }

function follow() {
  if (!both || stills) return;
  const speed = +by("speed").value, off = drift();
  if (after.paused || Math.abs(off) > .25) {
    if (Math.abs(off) > frame / 2 && !before.seeking) before.currentTime = wanted();
    before.playbackRate = speed;
  } else {
    before.playbackRate = Math.abs(off) > frame / 4 ? speed * Math.min(1.25, Math.max(.8, 1 - 2 * off)) : speed;
  }
  if (after.paused !== before.paused) after.paused ? before.pause() : before.play().catch(() => {});
}

function told(seconds) {
  const whole = Math.max(0, seconds), minutes = Math.floor(whole / 60);
  return `${minutes}:${(whole % 60).toFixed(2).padStart(5, "0")}`;
}

function length() { return stills ? data.strip.length : after.duration || 0; }

function tick() {
  if (!stills) {
    follow();
    const total = length();
    if (total && document.activeElement !== by("seek")) by("seek").value = 1000 * after.currentTime / total;
    by("time").textContent = `${told(after.currentTime)} of ${told(total)}`;
    by("seek").setAttribute("aria-valuetext", told(after.currentTime));
    mark();
  }
  requestAnimationFrame(tick);
}

function seek(seconds) {
  after.currentTime = Math.min(Math.max(0, seconds), Math.max(0, length() - frame / 2));
  if (both) before.currentTime = wanted();
}

function play() {
  if (stills) return;
  if (!after.paused) after.pause();
  else after.play().catch((error) => { if (error.name !== "AbortError") still(); });  // which a pause before the start is
}

function step(direction) {
  if (stills) { go(at + direction); return; }
  after.pause();
  seek(after.currentTime + direction * frame);
}

after.addEventListener("play", () => { by("play").textContent = "Pause"; });
after.addEventListener("pause", () => { by("play").textContent = "Play"; });
after.addEventListener("loadedmetadata", reshape);
by("play").onclick = play;
by("back").onclick = () => step(-1);
by("on").onclick = () => step(1);
by("seek").oninput = (event) => {
  if (stills) go(Math.round(event.target.value / 1000 * (data.strip.length - 1)));
  else seek(event.target.value / 1000 * length());
};
by("speed").oninput = (event) => { after.playbackRate = before.playbackRate = +event.target.value; };
by("loop").oninput = (event) => { after.loop = event.target.checked; };
by("sound").oninput = (event) => { after.muted = !event.target.checked; };
by("view").oninput = (event) => { stage.classList.toggle("beside", event.target.value === "beside"); reshape(); };
addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, button, summary, a") || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {" ": play, ",": () => step(-1), ".": () => step(1)}[event.key];
  if (does) { does(); event.preventDefault(); }
});

// -- frames, which also stand for a clip that this browser cannot play ------------------------------------------------

data.strip.forEach((entry, index) => {
  const button = make("button"), pair = make("span", entry.x ? "pair both" : "pair");
  button.type = "button";
  for (const which of entry.x ? ["before", "after"] : ["after"]) {
    const image = make("img");
    image.alt = ""; image.loading = "lazy"; image.decoding = "async"; image.draggable = false;
    image.src = source(index, which);
    pair.append(image);
  }
  pair.style.width = 84 * entry.w / entry.h + "px";
  button.append(pair, told(entry.time) + (entry.c === null ? "" : ` · Δ ${entry.c.toFixed(1)}`));
  button.setAttribute("aria-label", `Frame at ${told(entry.time)}`);
  button.onclick = () => stills ? go(index) : (after.pause(), seek(entry.time));
  by("strip").append(button);
});
by("strip").classList.add("split");

function source(index, which) { return data.files + String(index).padStart(2, "0") + `-${which}.jpg`; }

function mark() {
  if (!stills) at = data.strip.findLastIndex((entry) => entry.time <= after.currentTime + frame);
  [...by("strip").children].forEach((button, index) => button.setAttribute("aria-current", index === at));
}

function go(index) {
  at = Math.min(data.strip.length - 1, Math.max(0, index));
  const entry = data.strip[at];
  by("after-still").src = source(at, "after");
  if (entry.x) by("before-still").src = source(at, "before");
  by("seek").value = 1000 * at / Math.max(1, data.strip.length - 1);
  by("time").textContent = `frame ${at + 1} of ${data.strip.length}`;
  mark();
}

function still() {
  if (stills) return;
  stills = true;
  after.pause(); before.pause();
  for (const which of ["before", "after"]) { by(which).hidden = true; by(which + "-still").hidden = which === "before" && !both; }
  by("play").disabled = true;
  by("said").hidden = false;
  by("said").textContent = data.strip.length
    ? `This browser cannot play one of the two clips, or it is not where it was: ${data.strip.length} frames of them are shown.`
    : "This browser cannot play this clip, or it is not where it was.";
  if (data.strip.length) go(0);
}

if (/\.(gif|webp|apng)$/i.test(data.after)) {
  still();
} else {
  for (const clip of [before, after]) clip.addEventListener("error", still);
  if (both) before.src = data.before;
  after.src = data.after;
}
reshape();
requestAnimationFrame(tick);
