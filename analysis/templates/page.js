"use strict";
// Sorting, filters, colours, details of each cell, and downloads. All else is in the page without this script.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
  document.documentElement.classList.add("js");
  for (const element of all("[data-js]")) element.hidden = false;

  // ------------------------------------------------------------ files and details, compressed at the end of the page
  const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  let opened;
  const packed = () => opened ??= (async () => {
    const bytes = bytesOf(document.getElementById("packed").textContent.trim());
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  })();

  async function contentOf(name) {
    const { files, binary, pictures } = await packed();
    return name in files ? files[name] : bytesOf(binary[name] ?? pictures[name]);
  }

  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[download]");
    if (!link || !("DecompressionStream" in window)) return;
    event.preventDefault();
    const types = { csv: "text/csv", md: "text/markdown", tex: "application/x-tex", png: "image/png",
      pdf: "application/pdf" };
    const type = types[link.download.split(".").pop()];
    const href = URL.createObjectURL(new Blob([await contentOf(link.download)], { type }));
    make("a", { href, download: link.download }).click(); // outside the page: its click does not come here again
    setTimeout(() => URL.revokeObjectURL(href), 60_000); // when the browser has read it
  });

  // ------------------------------------------------------------ copying a text
  for (const button of all("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy);
      getSelection().selectAllChildren(text); // if the clipboard is closed to the page, the reader copies the selection
      const copied = await navigator.clipboard?.writeText(text.textContent.trim()).then(() => true, () => false);
      button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => (button.textContent = "Copy"), 3000);
    });
  }

  // ------------------------------------------------------------ sorting
  const original = new Map(); // table body -> its rows in their original order

  function compare(a, b) { // numbers or words; `sort` handles missing values
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  }

  function keyOf(cell, numeric) {
    if (numeric) return cell.dataset.key ? Number(cell.dataset.key) : null;
    const text = cell.textContent.trim();
    return ["", "–"].includes(text) ? null : text;
  }

  function sort(table, head, direction) {
    const body = table.tBodies[0];
    const rows = original.get(body);
    let order = rows;
    if (direction) {
      const place = head.cellIndex;
      const numeric = rows.some((row) => row.cells[place].dataset.key);
      const keys = new Map(rows.map((row) => [row, keyOf(row.cells[place], numeric)]));
      const sign = direction === "ascending" ? 1 : -1;
      order = [...rows].sort((one, other) => {
        const [total, second] = [one, other].map((row) => "total" in row.dataset);
        if (total || second) return total - second; // so are totals
        const [a, b] = [keys.get(one), keys.get(other)];
        if (a === null || b === null) return (a === null) - (b === null); // missing values last, in both directions
        return sign * compare(a, b);
      });
    }
    body.append(...order);
    for (const other of all("[aria-sort]", table)) other.removeAttribute("aria-sort");
    if (direction) head.setAttribute("aria-sort", direction);
    table.classList.toggle("sorted", Boolean(direction));
  }

  function makeSortable(table) {
    original.set(table.tBodies[0], [...table.tBodies[0].rows]);
    const methods = Boolean(table.closest("figure.table"));
    for (const head of all("thead tr:last-child > th", table)) {
      const first = head.cellIndex === 0;
      const numbers = all("tbody [data-key]", table).some((cell) => cell.cellIndex === head.cellIndex);
      // the best first: the highest score, the shortest time, the lowest rank
      const start = numbers && table.closest(".more-is-better") ? "descending" : "ascending";
      const button = make("button", { type: "button", className: "sort" });
      if (methods && first) {
        const corner = make("span", { className: "dims", textContent: head.textContent });
        button.textContent = "Method";
        head.replaceChildren(button, ...(corner.textContent ? [corner] : []));
      } else {
        const mark = head.querySelector("i");
        button.textContent = head.textContent;
        head.replaceChildren(button, ...(mark ? [mark] : []));
      }
      if (numbers && !methods) head.classList.add("number");
      button.addEventListener("click", () => {
        const second = start === "ascending" ? "descending" : "ascending";
        sort(table, head, { [start]: second, [second]: "" }[head.getAttribute("aria-sort")] ?? start);
      });
    }
  }

  // ------------------------------------------------------------ details of a cell
  const tip = document.body.appendChild(make("div", { id: "tip", role: "tooltip", hidden: true }));
  let described = null;
  let leaving = 0;

  const isCell = (element) => element?.matches?.("figure.table td[data-key]");

  // its row and column in the page's data, whatever the table is sorted by
  const placeOf = (cell) => [original.get(cell.closest("tbody")).indexOf(cell.parentElement), cell.cellIndex - 1];
  const nameOf = (cell) => {
    const heads = JSON.parse(cell.closest("figure").dataset.heads);
    return `${cell.parentElement.cells[0].textContent}, ${heads[cell.cellIndex - 1]}`;
  };

  async function show(cell) {
    clearTimeout(leaving);
    if (described === cell || panel.isOpen()) return;
    hide();
    described = cell;
    const { cells } = await packed();
    if (described !== cell) return;
    const [row, column] = placeOf(cell);
    const lines = cells[cell.closest("figure").id][row][column];
    const name = make("b", { textContent: nameOf(cell) });
    tip.replaceChildren(name, ...lines.map((line) => make("span", { textContent: line })));
    tip.hidden = false;
    cell.setAttribute("aria-describedby", "tip");
    put();
  }

  function put() { // below its cell, or above it if there is no room below
    const [place, size] = [described.getBoundingClientRect(), tip.getBoundingClientRect()];
    const edge = document.documentElement;
    const left = Math.max(8, Math.min(place.right - size.width, edge.clientWidth - size.width - 8));
    const below = place.bottom + 4 + size.height <= edge.clientHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? place.bottom + 4 : Math.max(8, place.top - 4 - size.height)}px`;
  }

  function hide() {
    clearTimeout(leaving);
    described?.removeAttribute("aria-describedby");
    described = null;
    tip.hidden = true;
  }

  function leave() { // delayed, so that the pointer can move onto the tip
    clearTimeout(leaving);
    leaving = setTimeout(() => (isCell(document.activeElement) ? show(document.activeElement) : hide()), 150);
  }

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const cell = event.target.closest?.("td");
    if (isCell(cell)) show(cell);
    else if (tip.contains(event.target)) clearTimeout(leaving);
    else if (described) leave();
  });
  document.documentElement.addEventListener("pointerleave", () => described && leave());
  let touched = false; // a tap opens the panel, without the tip
  document.addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "touch";
    const cell = event.target.closest?.("figure.table :is(td, th)");
    if (cell && !event.target.closest("button")) rove(cell); // makes the cell focusable: the panel returns the focus
    else if (described && !tip.contains(event.target)) hide();
  });
  document.addEventListener("keydown", () => (touched = false), { capture: true });
  document.addEventListener("focusin", (event) => {
    const cell = event.target.closest("figure.table :is(td, th)");
    if (cell) rove(cell);
    isCell(event.target) && !touched ? show(event.target) : hide();
  });
  document.addEventListener("focusout", (event) => event.target === described && hide());
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", (event) => {
    if (tip.hidden || !event.target.contains?.(described)) return;
    const place = described.getBoundingClientRect();
    place.bottom < 0 || place.top > document.documentElement.clientHeight ? hide() : put();
  }, { capture: true, passive: true });

  // ------------------------------------------------------------ panel of a cell
  const panel = makePanel({ all, make, packed, nameOf, placeOf });

  async function open(cell) {
    await panel.open(cell);
    hide();
  }
  document.addEventListener("click", (event) => {
    const cell = event.target.closest?.("td");
    if (isCell(cell) && getSelection().isCollapsed) open(cell); // else the click ends a selection, to be copied
  });
  document.addEventListener("keydown", (event) => {
    if (!["Enter", " "].includes(event.key) || !isCell(event.target)) return;
    event.preventDefault();
    open(event.target);
  });

  // ------------------------------------------------------------ one tab stop for each table, arrow keys within it
  const stop = (cell) => cell.querySelector("button") ?? cell;

  function rove(cell) {
    for (const other of all('[tabindex="0"]', cell.closest("table"))) other.tabIndex = -1;
    stop(cell).tabIndex = 0;
  }

  function makeGrid(table) {
    table.setAttribute("role", "grid");
    table.setAttribute("aria-label", table.closest("figure").querySelector("h3").textContent);
    table.parentElement.removeAttribute("tabindex");
    for (const button of all("button", table)) button.tabIndex = -1;
    for (const cell of all("td[data-key]", table)) cell.setAttribute("aria-haspopup", "dialog");
    rove(table.querySelector("thead tr:last-child > th"));
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td, th");
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
        Home: [0, -Infinity], End: [0, Infinity] };
      const step = steps[event.key];
      if (!step || event.altKey || event.metaKey) return;
      event.preventDefault();
      const clamp = (place, count) => Math.max(0, Math.min(count - 1, place));
      const shown = (row) => [...row.cells].filter((one) => !one.hidden);
      const rows = [table.tHead.rows[table.tHead.rows.length - 1], ...table.tBodies[0].rows].filter((r) => !r.hidden);
      const across = shown(cell.parentElement).indexOf(cell);
      const far = event.ctrlKey && step[1] ? step[1] : step[0];
      const row = rows[clamp(rows.indexOf(cell.parentElement) + far, rows.length)];
      const next = shown(row)[clamp(across + step[1], shown(row).length)];
      rove(next);
      stop(next).focus();
      next.scrollIntoView({ block: "nearest", inline: "nearest" });
      if (isCell(next)) show(next);
    });
  }

  // ------------------------------------------------------------ filters, which are kept in the address
  const form = document.getElementById("filters");
  const chosen = { dataset: "", method: "", claims: "", colours: "" };
  const state = document.getElementById("state");
  const heads = (figure) => figure.dataset.columns ? JSON.parse(figure.dataset.columns) : [];

  const labelled = all("figure.table, figure.methods");
  const labelOf = (row, figure) => row.cells[figure.dataset.label ?? 0].textContent;
  const labels = labelled.flatMap((figure) =>
    all("tbody tr", figure).map((row) => labelOf(row, figure).toLowerCase()));

  function matcher(text) { // true for labels in which any of the terms begins a word; the beginning of a label is one
    const whole = text.toLowerCase().replace(/[\s,;]+$/, "").trim();
    const isLabel = labels.some((label) => label.startsWith(whole));
    const terms = isLabel ? [whole].filter(Boolean) : whole.split(/[\s,;]+/).filter(Boolean);
    return (label) => {
      const parts = label.toLowerCase();
      return !terms.length || terms.some((term) => {
        for (let at = parts.indexOf(term); at >= 0; at = parts.indexOf(term, at + 1)) {
          const within = /[\p{L}\p{N}]{2}/u.test(parts[at - 1] + parts[at]);
          if (at === 0 || !within) return true;
        }
        return false;
      });
    };
  }

  function say(figure, words) { // in place of a table whose rows are all hidden
    let note = figure.querySelector(".empty");
    if (words && !note) figure.querySelector(".scroll").before(note = make("p", { className: "empty" }));
    if (note) Object.assign(note, { textContent: words, hidden: !words });
    figure.querySelector(".scroll").hidden = Boolean(words);
  }

  function apply() {
    hide();
    if (form.elements.colours) {
      document.documentElement.classList.toggle("paper-colours", form.elements.colours.value === "paper");
    }
    const matches = matcher(chosen.method);
    const isOfDataset = (name) => !chosen.dataset || !name || name === chosen.dataset;
    for (const row of all("[data-dataset]")) row.hidden = !isOfDataset(row.dataset.dataset);
    for (const figure of all("figure.table")) {
      const columns = heads(figure);
      const kept = columns.map(isOfDataset);
      figure.hidden = !kept.includes(true);
      const cells = all(":is(tbody tr, thead tr:last-child)", figure);
      if (new Set(columns).size > 1) {
        for (const row of cells) kept.forEach((keep, i) => (row.cells[i + 1].hidden = !keep));
        let first = 0;
        for (const head of all("th[scope=colgroup]", figure)) {
          head.hidden = !kept[first];
          first += head.colSpan;
        }
      }
    }
    for (const figure of labelled) {
      const rows = all("tbody tr", figure);
      for (const row of rows) row.hidden = !matches(labelOf(row, figure)) || !isOfDataset(row.dataset.dataset);
      say(figure, rows.every((row) => row.hidden) ? "No method matches." : "");
      const table = figure.querySelector("table");
      const focused = table.querySelector('[tabindex="0"]');
      if (figure.matches(".table") && focused?.closest("[hidden]")) rove(table.querySelector("thead tr:last-child > th"));
    }
    const claims = document.getElementById("claims");
    if (claims) {
      const rows = all("tbody tr", claims);
      for (const row of rows) {
        row.hidden = !isOfDataset(row.dataset.dataset) || Boolean(chosen.claims && !row.classList.contains(chosen.claims));
      }
      say(claims, rows.every((row) => row.hidden) ? "No claim matches." : "");
      for (const label of all("#statuses label")) {
        const status = label.querySelector("input").value;
        const count = rows.filter((row) =>
          isOfDataset(row.dataset.dataset) && (!status || row.classList.contains(status))).length;
        label.querySelector("b").textContent = count;
      }
    }
    for (const group of all(".group")) {
      for (const part of all(":scope > details", group)) part.hidden = all("figure", part).every((one) => one.hidden);
      group.hidden = all("figure", group).every((one) => one.hidden);
    }
    for (const link of all("nav.contents .inner a")) {
      const target = document.getElementById(link.hash.slice(1));
      link.parentElement.hidden = Boolean(target?.closest("[hidden]"));
    }
    const tables = all("figure.table");
    const shown = tables.filter((figure) => !figure.hidden).length;
    const active = chosen.dataset || chosen.method;
    state.textContent = active ? `${shown} of ${tables.length} tables` : "";
    form.elements.clear.hidden = !active;
  }

  let at = "";
  function write() {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(chosen)) if (value) query.set(name, value);
    const filtered = query.size > 0;
    if (filtered && at) query.set("at", at);
    const hash = filtered ? `#${query}` : at ? `#${encodeURIComponent(at)}` : " ";
    history.replaceState(null, "", hash === " " ? location.href.split("#")[0] : hash);
  }

  function read() {
    const hash = location.hash.slice(1);
    const query = hash.includes("=") ? new URLSearchParams(hash) : null;
    if (query) {
      for (const name of Object.keys(chosen)) chosen[name] = query.get(name) ?? "";
      const names = [...(form.elements.dataset?.options ?? [])].map((option) => option.value);
      if (!names.includes(chosen.dataset)) chosen.dataset = "";
      if (!document.querySelector(`#statuses input[value="${CSS.escape(chosen.claims)}"]`)) chosen.claims = "";
    }
    const colours = form.elements.colours;
    if (colours) {
      const given = [...colours.options].find((option) => option.value === chosen.colours);
      for (const option of colours.options) option.selected = given ? option === given : option.defaultSelected;
      chosen.colours = given && !given.defaultSelected ? given.value : "";
    }
    at = query ? query.get("at") ?? "" : decodeURIComponent(hash);
    if (form.elements.dataset) form.elements.dataset.value = chosen.dataset;
    form.elements.method.value = chosen.method;
    for (const input of all("#statuses input")) input.checked = input.value === chosen.claims;
    apply();
    write();
    const target = at && document.getElementById(at);
    if (target) {
      for (let part = target; part; part = part.parentElement) if (part.matches("details")) part.open = true;
      target.scrollIntoView();
    }
  }

  function change(name, value) {
    chosen[name] = value;
    apply();
    write();
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.colours?.addEventListener("change", ({ target }) =>
    change("colours", target.selectedOptions[0].defaultSelected ? "" : target.value));
  form.elements.dataset?.addEventListener("change", (event) => change("dataset", event.target.value));
  form.elements.method.addEventListener("input", (event) => change("method", event.target.value.trim()));
  form.elements.clear.addEventListener("click", () => {
    chosen.dataset = form.elements.method.value = chosen.method = "";
    if (form.elements.dataset) form.elements.dataset.value = "";
    apply();
    write();
    form.elements.method.focus();
  });
  for (const input of all("#statuses input")) {
    input.addEventListener("change", () => {
      for (const part of all("details:has(#claims)")) part.open = true;
      change("claims", input.value);
    });
  }
  window.addEventListener("hashchange", read);

  // ------------------------------------------------------------ marks the current section in the contents
  const links = all("nav.contents a");
  const seen = new Map();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) seen.set(entry.target.id, entry.isIntersecting);
    const current = links.filter((link) => seen.get(link.hash.slice(1)));
    for (const link of links) link.removeAttribute("aria-current");
    current[current.length - 1]?.setAttribute("aria-current", "location");
  }, { rootMargin: "-15% 0px -70% 0px" });
  for (const link of links) {
    const target = document.getElementById(link.hash.slice(1));
    if (target) watch.observe(target);
  }

  // ------------------------------------------------------------ printing unfolds everything
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const part of closed) part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });

  for (const table of all("figure.table table, figure.listing table")) makeSortable(table);
  for (const table of all("figure.table table")) makeGrid(table);
  makeFigures({ all, make, packed });
  read();
})();
