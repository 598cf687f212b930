// The line between before and after: dragged, or moved with the arrow keys. Gives a function that sets it, in percent.
function divider(stage, line, moved) {
  let value = 50;
  function set(percent) {
    value = Math.min(100, Math.max(0, percent));
    stage.style.setProperty("--cut", value + "%");
    line.setAttribute("aria-valuenow", Math.round(value));
    line.setAttribute("aria-valuetext", Math.round(value) + " percent before");
    if (moved) moved(value);
  }
  function follow(event) {
    const box = stage.getBoundingClientRect();
    set(100 * (event.clientX - box.left) / box.width);
  }
  line.addEventListener("pointerdown", (event) => {
    line.setPointerCapture(event.pointerId);
    line.focus({preventScroll: true});
    event.preventDefault();
    event.stopPropagation();
  });
  line.addEventListener("pointermove", (event) => { if (line.hasPointerCapture(event.pointerId)) follow(event); });
  line.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = event.shiftKey ? 1 : 5;
    const to = {ArrowLeft: value - step, ArrowRight: value + step, Home: 0, End: 100}[event.key];
    if (to === undefined) return;
    set(to);
    event.preventDefault();
    event.stopPropagation();
  });
  return set;
}

// An element of the page that names itself.
function by(id) { return document.getElementById(id); }

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
