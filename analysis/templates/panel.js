"use strict";
// The panel of a table's cell: its statistics, the score of each seed, and a plot of them beside the column's best.

// `nameOf(cell)`, `linesOf(cell)` and `placeOf(cell)` are the page's; `packed()` returns its data.
function makePanel({ all, make, packed, nameOf, placeOf }) { // eslint-disable-line no-unused-vars
  const dialog = document.body.appendChild(make("dialog", { id: "panel" }));
  dialog.setAttribute("aria-labelledby", "panel-title");
  const inside = dialog.appendChild(make("div", { className: "inside" }));
  let restoring = false;

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const shown = (value, digits, signed) => (signed && value >= 0 ? "+" : "") + value.toFixed(digits);

  // ------------------------------------------------------------ what a cell is compared with
  const bySeed = (data) => new Map(data.seeds.map((seed, i) => [seed, data.values[i]]));

  function subject(cell, table, [row, column]) {
    const data = table.cells[row][column];
    if (!data.values) return null;
    const figure = cell.closest("figure");
    const others = table.cells.map((cells) => cells[column]).filter((other) => other.values);
    const range = others.flatMap((other) => [...other.values, ...(other.paper === undefined ? [] : [other.paper])]);
    const name = cell.parentElement.cells[0].textContent;
    const found = { name, data, range: table.signed ? [...range, 0] : range, axis: table.axis, signed: table.signed,
      digits: table.digits + 2 };
    if (!figure.matches(".compared") || cell.matches(".best")) return found;
    const best = all(`td.best`, figure).find((other) => other.cellIndex === cell.cellIndex);
    if (!best) return found;
    const theirs = bySeed(table.cells[placeOf(best)[0]][column]);
    const shared = data.seeds.filter((seed) => theirs.has(seed));
    const ours = bySeed(data);
    return { ...found, best: { name: best.parentElement.cells[0].textContent, values: theirs }, shared,
      differences: shared.map((seed) => theirs.get(seed) - ours.get(seed)) };
  }

  // ------------------------------------------------------------ plot
  const LEFT = 12;
  const svg = (tag, attributes = {}, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };

  const LINE = 16; // height of a name's line
  const pen = make("canvas").getContext("2d");

  function linesOf(words, width) { // a name, broken at its spaces
    pen.font = `600 13px ${getComputedStyle(document.body).fontFamily}`;
    const lines = [];
    for (const word of words.split(" ")) {
      const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
      if (lines.length && pen.measureText(longer).width <= width - 2 * LEFT) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines;
  }

  function axisOf(values, width) { // from a value to its place, and ticks at round numbers
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const span = most - least || Math.abs(most) || 1;
    const [low, high] = [least - 0.04 * span, most + 0.04 * span];
    const rough = (high - low) / Math.max(2, Math.min(6, width / 90));
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const ticks = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(i * step);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return { at: (value) => LEFT + ((value - low) / (high - low)) * (width - 2 * LEFT), ticks, digits };
  }

  function drawAxis(plot, axis, y, width, words) {
    plot.append(svg("line", { class: "axis", x1: LEFT, x2: width - LEFT, y1: y, y2: y }));
    for (const tick of axis.ticks) {
      plot.append(svg("line", { class: "axis", x1: axis.at(tick), x2: axis.at(tick), y1: y, y2: y + 4 }));
      plot.append(svg("text", { class: "tick", x: axis.at(tick), y: y + 16 }, tick.toFixed(axis.digits)));
    }
    plot.append(svg("text", { class: "words", x: LEFT, y: y + 33 }, words));
  }

  function drawStrip(plot, axis, y, { lines, seeds, values, digits, kind, estimate, low, high }) {
    lines.forEach((line, i) =>
      plot.append(svg("text", { class: "name", x: LEFT, y: y - 15 - LINE * (lines.length - 1 - i) }, line)));
    if (low !== undefined) {
      plot.append(svg("line", { class: "interval", x1: axis.at(low), x2: axis.at(high), y1: y + 13, y2: y + 13 }));
    }
    if (estimate !== undefined) {
      const x = axis.at(estimate);
      plot.append(svg("path", { class: "estimate", d: `M${x - 5} ${y + 13}l5 -5l5 5l-5 5z` }));
    }
    values.forEach((value, i) => {
      const dot = svg("circle", { class: `dot ${kind}`, cx: axis.at(value), cy: y, r: 4.5 });
      dot.append(svg("title", {}, `seed ${seeds[i]}: ${value.toFixed(digits)}`));
      plot.append(dot);
    });
    const middle = axis.at(mean(values));
    plot.append(svg("line", { class: "mean", x1: middle, x2: middle, y1: y - 10, y2: y + 10 }));
  }

  function draw(of, width) {
    const { data, best, digits } = of;
    const plot = svg("svg", { role: "img", width, "aria-label": spoken(of) });
    const axis = axisOf(of.range, width);
    const more = (lines) => LINE * (lines.length - 1);
    const own = linesOf(of.name, width);
    const theirs = best ? linesOf(`${best.name} (best)`, width) : [];
    let y = 32 + more(best ? theirs : own);
    if (of.signed) {
      plot.append(svg("line", { class: "zero", x1: axis.at(0), x2: axis.at(0), y1: y - 12, y2: y + 30 }));
    }
    if (best) {
      const runs = [...best.values];
      const below = y + 56 + more(own);
      const ours = bySeed(data);
      for (const seed of of.shared) {
        plot.append(svg("line", { class: "pair", x1: axis.at(best.values.get(seed)), x2: axis.at(ours.get(seed)), y1: y,
          y2: below }));
      }
      drawStrip(plot, axis, y, { lines: theirs, seeds: runs.map(([seed]) => seed), values: runs.map(([, value]) => value),
        digits, kind: "other" });
      y = below;
    }
    const drawn = of.signed ? data : { seeds: data.seeds, values: data.values };
    drawStrip(plot, axis, y, { ...drawn, lines: own, digits, kind: "own" });
    if (data.paper !== undefined) {
      const x = axis.at(data.paper);
      plot.append(svg("line", { class: "paper", x1: x, x2: x, y1: y - 10, y2: y + 20 }));
      const end = x > width / 2 ? "end" : "start";
      plot.append(svg("text", { class: "words", x: x + (end === "end" ? -5 : 5), y: y + 21, "text-anchor": end },
        `paper ${data.paper.toFixed(digits - 2)}`));
    }
    y += 30;
    drawAxis(plot, axis, y, width, of.axis);
    y += 40;
    if (best && of.shared.length) {
      const { estimate, low, high } = data;
      const known = [0, ...of.differences, ...[estimate, low, high].filter((value) => value !== undefined)];
      const apart = axisOf(known, width);
      const lines = linesOf(`${best.name} − ${of.name}, paired by seed`, width);
      y += 34 + more(lines);
      plot.append(svg("line", { class: "zero", x1: apart.at(0), x2: apart.at(0), y1: y - 12, y2: y + 30 }));
      drawStrip(plot, apart, y, { lines, seeds: of.shared, values: of.differences, digits,
        kind: "own", estimate, low, high });
      y += 30;
      drawAxis(plot, apart, y, width, "difference, nats per image");
      y += 40;
    }
    plot.setAttribute("viewBox", `0 0 ${width} ${y}`);
    plot.setAttribute("height", y);
    return plot;
  }

  function spoken({ name, data, best, digits, signed }) {
    const range = (values) => `${shown(Math.min(...values), digits, signed)} to ${shown(Math.max(...values), digits, signed)}`;
    const parts = [`${name}: ${range(data.values)}`];
    if (best) parts.push(`${best.name}, the best: ${range([...best.values.values()])}`);
    return `A dot for each seed. ${parts.join("; ")} nats. The table below has the values.`;
  }

  function keyOf(of) { // what the marks of the plot are
    const words = ["A dot is a seed, the upright line the mean"];
    if (of.best && of.shared.length) words.push("a thin line joins the runs of one seed");
    const estimated = of.signed || of.best;
    if (estimated && of.data.estimate !== undefined) {
      const interval = of.data.low === undefined ? "" : " with its confidence interval";
      words.push(`the diamond the Hodges-Lehmann estimate${interval}`);
    }
    return `${words.join("; ")}.`;
  }

  // ------------------------------------------------------------ values by seed
  function valuesOf(of) {
    const { data, best, digits, signed } = of;
    const table = make("table");
    table.append(make("caption", { textContent: signed ? "Difference of each seed" : "Score of each seed" }));
    const heads = ["Seed", of.name, ...(best ? [`${best.name} (best)`, "best − this"] : [])];
    const line = (part, cells, tag = "td") => {
      const row = part.insertRow();
      cells.forEach((text, i) => row.append(make(i ? tag : "th", { textContent: text })));
      row.cells[0].scope = "row";
      return row;
    };
    for (const head of line(table.createTHead(), heads, "th").cells) head.scope = "col";
    const ours = bySeed(data);
    const seeds = [...new Set([...data.seeds, ...(best ? best.values.keys() : [])])].sort((a, b) => a - b);
    const text = (value, sign = signed) => (value === undefined || Number.isNaN(value) ? "–" : shown(value, digits, sign));
    const body = table.createTBody();
    for (const seed of seeds) {
      const theirs = best?.values.get(seed);
      line(body, [seed, text(ours.get(seed)), ...(best ? [text(theirs), text(theirs - ours.get(seed), true)] : [])]);
    }
    const ends = best ? [text(mean([...best.values.values()])), text(mean(of.differences), true)] : [];
    line(table.createTFoot(), ["Mean", text(mean(data.values)), ...ends]);
    const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region" });
    scroll.setAttribute("aria-label", table.caption.textContent);
    scroll.append(table);
    return scroll;
  }

  // ------------------------------------------------------------ opening and closing
  async function open(cell) {
    const figure = cell.closest("figure");
    const { cells, seeds } = await packed();
    const [row, column] = placeOf(cell);
    const title = make("h2", { id: "panel-title", textContent: nameOf(cell) });
    const shut = make("button", { type: "button", className: "close", textContent: "Close" });
    shut.addEventListener("click", close);
    const head = make("div", { className: "head" });
    head.append(title, shut);
    const what = make("p", { className: "soft", textContent: figure.querySelector("h3").textContent });
    const lines = make("ul", { className: "statistics" });
    lines.append(...cells[figure.id][row][column].map((line) => make("li", { textContent: line })));
    inside.replaceChildren(head, what);
    const outcome = [...cell.classList].map((name) => figure.querySelector(`.legend .${name}`)).find(Boolean);
    if (outcome) inside.append(Object.assign(make("p", { className: "legend" })));
    if (outcome) inside.lastChild.append(outcome.cloneNode(true));
    inside.append(lines);
    dialog.showModal();
    const of = seeds[figure.id] && subject(cell, seeds[figure.id], [row, column]);
    if (of) {
      const style = getComputedStyle(inside);
      const width = inside.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      inside.append(draw(of, Math.floor(width)), make("p", { className: "soft key", textContent: keyOf(of) }), valuesOf(of));
    }
    dialog.scrollTop = 0;
  }

  function close() { // the browser returns the focus to the cell
    restoring = true;
    dialog.close();
    restoring = false;
  }

  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && close()); // outside of it

  return { open, close, isOpen: () => dialog.open || restoring };
}
