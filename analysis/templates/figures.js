"use strict";
// The numbers of the marks in a figure: by pointer, by touch, and by arrow keys once the figure has the focus.

// `packed()` returns the page's data.
function makeFigures({ all, make, packed }) { // eslint-disable-line no-unused-vars
  const NEAR = 14; // CSS pixels from the pointer within which a mark is found; a finger is less exact
  const NEAR_A_FINGER = 28;
  const SAME = 0.3; // points within which marks cover one another, so that all of them are said
  const MOST = 4;
  const tip = document.body.appendChild(make("div", { id: "value", hidden: true }));
  tip.setAttribute("role", "status"); // read aloud when it changes
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  ring.setAttribute("class", "shown");
  let open = null; // the figure whose mark is shown, and which of its marks
  let pointed = 0; // counts the pointer's moves: only the last is answered

  const marksOf = async (svg) => (await packed()).marks[svg.parentElement.id] ?? [];
  const boxOf = ([x0, y0, x1 = x0, y1 = y0]) => [x0, y0, x1, y1];

  function scaleOf(svg) { // the drawing's box without padding: its left and top edge, and CSS pixels for each point
    const matrix = svg.getScreenCTM();
    return [matrix.e, matrix.f, matrix.a];
  }

  function distance([x0, y0, x1, y1], x, y) {
    return Math.hypot(Math.max(x0 - x, 0, x - x1), Math.max(y0 - y, 0, y - y1));
  }

  function show(svg, marks, at) {
    const box = boxOf(marks[at][0]);
    const covered = (mark) => boxOf(mark[0]).every((side, i) => Math.abs(side - box[i]) <= SAME);
    const same = [marks[at], ...marks.filter((mark, i) => i !== at && covered(mark))].slice(0, MOST);
    tip.replaceChildren(...same.flatMap(([, name, ...lines]) => [["b", name], ...lines.map((line) => ["span", line])])
      .map(([tag, textContent]) => make(tag, { textContent })));
    tip.hidden = false;
    const [left, top, scale] = scaleOf(svg);
    const around = 3;
    const sides = { x: box[0] - around, y: box[1] - around, width: box[2] - box[0] + 2 * around,
      height: box[3] - box[1] + 2 * around, rx: around };
    for (const [name, value] of Object.entries(sides)) ring.setAttribute(name, value);
    svg.append(ring);
    svg.setAttribute("aria-describedby", "value");
    open = { svg, at };
    put(...box.map((side, i) => (i % 2 ? top : left) + side * scale));
  }

  function put(x0, y0, x1, y1) { // beside the mark, or below or above it where the window is too narrow
    const { width, height } = tip.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const [far, edge] = [12, 8];
    const within = (place, size, all) => Math.max(edge, Math.min(place, all - size - edge));
    let [x, y] = [x1 + far, (y0 + y1 - height) / 2];
    if (x + width > clientWidth - edge) x = x0 - far - width;
    if (x < edge) {
      x = (x0 + x1 - width) / 2;
      y = y1 + far + height <= clientHeight - edge ? y1 + far : y0 - far - height;
    }
    tip.style.left = `${within(x, width, clientWidth)}px`;
    tip.style.top = `${within(y, height, clientHeight)}px`;
  }

  function hide() {
    pointed += 1;
    open?.svg.removeAttribute("aria-describedby");
    open = null;
    ring.remove();
    tip.hidden = true;
  }

  async function point(svg, event, near) {
    const move = (pointed += 1);
    const marks = await marksOf(svg);
    if (move !== pointed) return;
    const [left, top, scale] = scaleOf(svg);
    const [x, y] = [(event.clientX - left) / scale, (event.clientY - top) / scale];
    const away = marks.map((mark) => distance(boxOf(mark[0]), x, y));
    const size = (i) => { const [x0, y0, x1, y1] = boxOf(marks[i][0]); return x1 - x0 + y1 - y0; };
    let best = -1; // the nearest; of those that are equally near, the smallest: a seed's point on a bar
    away.forEach((one, i) => {
      if (one * scale > near) return;
      if (best < 0 || one < away[best] - 0.01 || (one < away[best] + 0.01 && size(i) < size(best))) best = i;
    });
    best < 0 ? hide() : show(svg, marks, best);
  }

  for (const svg of all("figure.drawing > svg")) {
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", (event) => event.pointerType !== "touch" && point(svg, event, NEAR));
    svg.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && hide());
    svg.addEventListener("click", (event) => event.pointerType === "touch" && point(svg, event, NEAR_A_FINGER));
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", async (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
      if (!step || event.altKey || event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      const marks = await marksOf(svg);
      const now = open?.svg === svg ? open.at : step > 0 ? -1 : marks.length;
      if (marks.length) show(svg, marks, Math.max(0, Math.min(marks.length - 1, now + step)));
    });
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("pointerdown", (event) => open && !open.svg.contains(event.target) && hide());
  document.addEventListener("scroll", () => open && hide(), { capture: true, passive: true });
}
