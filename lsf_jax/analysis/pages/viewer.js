"use strict";
// An episode with a slider. What is shown comes from the page itself; nothing is ever fetched.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text = null) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    return element;
  };
  const draw = (parent, name, attributes, text = null) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    parent.append(element);
    return element;
  };
  const number = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  const painters = {
    disc(parent, [x, y, radius, colour, label, size, bar], unit) {
      draw(parent, "circle", { cx: x, cy: y, r: radius, class: `c-${colour}`, "stroke-width": 0 });
      if (label) draw(parent, "text", { x, y, "font-size": size * radius, "stroke-width": 0 }, label);
      if (bar === null) return;
      const top = y - radius - 6 * unit, height = 3 * unit;
      draw(parent, "rect", { x: x - radius, y: top, width: 2 * radius, height, class: "c-grid", "stroke-width": 0 });
      draw(parent, "rect", { x: x - radius, y: top, width: 2 * radius * bar, height, class: `c-${colour}`, "stroke-width": 0 });
    },
    cross(parent, [x, y, r, colour], unit) {
      const look = { class: `c-${colour}`, "stroke-width": 2 * unit };
      draw(parent, "line", { x1: x - r, y1: y - r, x2: x + r, y2: y + r, ...look });
      draw(parent, "line", { x1: x - r, y1: y + r, x2: x + r, y2: y - r, ...look });
    },
    line(parent, [x1, y1, x2, y2, colour, width], unit) {
      draw(parent, "line", { x1, y1, x2, y2, class: `c-${colour}`, "stroke-width": width * unit });
    },
    rectangle(parent, [x, y, width, height, colour, edge], unit) {
      draw(parent, "rect", { x, y, width, height, class: `c-${colour}` });
      if (edge) draw(parent, "rect", { x, y, width, height, class: `c-${edge}`, "fill-opacity": 0, "stroke-width": 2 * unit });
    },
  };

  function board(data) {
    if (!data.picture) return { element: make("pre"), show(step) { this.element.textContent = data.texts[step]; } };
    const { width, height, scale, common, frames } = data.picture;
    const unit = 1 / scale, margin = 10 * unit;
    const element = document.createElementNS(SVG, "svg");
    element.setAttribute("class", "board");
    element.setAttribute("role", "img");
    element.setAttribute("viewBox", `${-margin} ${-margin} ${width + 2 * margin} ${height + 2 * margin}`);
    const still = draw(element, "g", {}), moving = draw(element, "g", {});
    for (const [kind, ...shape] of common) painters[kind](still, shape, unit);
    return {
      element,
      show(step) {
        moving.replaceChildren();
        for (const [kind, ...shape] of frames[step]) painters[kind](moving, shape, unit);
        element.setAttribute("aria-label", data.captions[step]);
      },
    };
  }

  function timeline(data, go) {
    const element = document.createElementNS(SVG, "svg");
    element.setAttribute("class", "time");
    element.setAttribute("viewBox", "0 0 400 70");
    element.setAttribute("preserveAspectRatio", "none");
    const steps = data.length, at = (step) => (400 * step) / Math.max(steps, 1);
    const lines = [["earned", "--ink"], ["total", "--accent"]].filter(([name]) => data[name]);
    const all = lines.flatMap(([name]) => data[name]).filter((value) => value !== null);
    const low = Math.min(0, ...all), high = Math.max(0, ...all), span = high - low || 1;
    for (const [name, colour] of lines) {
      const points = data[name].map((value, step) => (value === null ? "" : `${at(step)},${65 - (60 * (value - low)) / span}`)).join(" ");
      draw(element, "polyline", { points, fill: "none", stroke: `var(${colour})`, "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" });
    }
    const mark = draw(element, "line", { y1: 0, y2: 70, stroke: "var(--warn)", "stroke-width": 1, "vector-effect": "non-scaling-stroke" });
    element.addEventListener("click", (event) => {
      const box = element.getBoundingClientRect();
      go(Math.round((steps * (event.clientX - box.left)) / box.width));
    });
    return { element, show(step) { mark.setAttribute("x1", at(step)); mark.setAttribute("x2", at(step)); } };
  }

  function cells(values) {
    const element = make("div", { class: "cells" });
    const most = Math.max(1e-9, ...values.map((value) => Math.abs(value ?? 0)));
    values.forEach((value, index) => {
      const share = Math.round((100 * Math.abs(value ?? 0)) / most);
      const cell = make("span", { title: `${index}: ${number(value)}` });
      cell.style.background = `color-mix(in srgb, var(${value < 0 ? "--enemy" : "--ally"}) ${share}%, var(--line))`;
      element.append(cell);
    });
    return element;
  }

  function table(heads, rows) {
    const element = make("table"), top = element.createTHead().insertRow(), body = element.createTBody();
    for (const head of heads) top.append(make("th", {}, head));
    for (const { values, look = "", bar = {}, click = null } of rows) {
      const row = body.insertRow();
      row.className = look;
      if (click) row.addEventListener("click", click);
      values.forEach((value, column) => {
        const cell = make("td", {}, value);
        if (column in bar) {
          cell.className = "bar";
          const fill = make("i");
          fill.style.width = `${Math.max(0, Math.min(100, bar[column]))}%`;
          cell.prepend(fill);
        }
        row.append(cell);
      });
    }
    const scroll = make("div", { class: "scroll" });
    scroll.append(element);
    return scroll;
  }

  function agents(data, step, chosen, choose) {
    const over = step >= data.length;
    const columns = [["action", data.action], ["value", data.value], ["weight", data.weights]].filter(([, values]) => values);
    const chosenQ = (agent) => data.q[step][agent][data.action[step][agent]];
    const heads = ["agent", ...columns.map(([name]) => name), ...(data.q ? ["Q of it"] : []), ...(data.pi ? ["π of it"] : [])];
    const rows = [...Array(data.n_agents).keys()].map((agent) => ({
      values: [
        `${agent}`,
        ...columns.map(([, values]) => (over ? "–" : number(values[step][agent]))),
        ...(data.q ? [over ? "–" : number(chosenQ(agent))] : []),
        ...(data.pi ? [over ? "–" : number(data.pi[step][agent][data.action[step][agent]])] : []),
      ],
      look: agent === chosen ? "agent chosen" : "agent",
      click: () => choose(agent),
    }));
    return table(heads, rows);
  }

  function details(data, step, agent) {
    const element = make("div");
    element.append(make("h3", {}, `agent ${agent}`));
    if (step < data.length) {
      const q = data.q?.[step][agent], pi = data.pi?.[step][agent], avail = data.avail[step][agent];
      const known = (q ?? []).filter((value, action) => avail[action] && value !== null);
      const low = Math.min(...known), high = Math.max(...known);
      const heads = ["action", ...(q ? ["Q"] : []), ...(pi ? ["π"] : [])];
      const rows = avail.map((open, action) => ({
        values: [`${action}${data.action[step][agent] === action ? " ◀" : ""}`, ...(q ? [number(q[action])] : []), ...(pi ? [number(pi[action])] : [])],
        look: open ? (data.action[step][agent] === action ? "chosen" : "") : "off",
        bar: {
          ...(q && open ? { 1: (100 * (q[action] - low)) / (high - low || 1) } : {}),
          ...(pi ? { [q ? 2 : 1]: 100 * pi[action] } : {}),
        },
      }));
      element.append(table(heads, rows));
      if (data.messages) element.append(make("h3", {}, "message it sends (means)"), cells(data.messages[step][agent]));
    }
    element.append(make("h3", {}, "observation"), cells(data.obs[step][agent]));
    return element;
  }

  async function mount(root) {
    if (root.dataset.state) return;
    root.dataset.state = "loading";
    const data = await unpack(root.querySelector("script").textContent);
    const left = make("div"), right = make("div");
    const slider = make("input", { type: "range", min: 0, max: data.length, value: 0, "aria-label": "step" });
    const play = make("button", { type: "button" }, "play");
    const caption = make("div", { class: "caption" }), note = make("div", { class: "faint" });
    let timer = null, agent = 0;
    const step = () => Number(slider.value);
    const go = (to) => { slider.value = to; show(); };
    const picture = board(data), line = timeline(data, go);
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "play"; };
    function show() {
      const now = step();
      picture.show(now);
      line.show(now);
      caption.textContent = data.captions[now];
      const total = data.total && now < data.length ? ` · joint value ${number(data.total[now])}` : "";
      note.textContent = now < data.length ? `reward of this step ${number(data.reward[now])}${total}` : "the episode is over";
      right.replaceChildren(agents(data, now, agent, (other) => { agent = other; show(); }), details(data, now, agent));
    }
    slider.addEventListener("input", show);
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (step() >= data.length) go(0);
      play.textContent = "pause";
      timer = setInterval(() => { if (step() >= data.length) stop(); else go(step() + 1); }, 250);
    });
    const controls = make("div", { class: "controls" });
    controls.append(play, slider);
    left.append(picture.element, caption, controls, note, line.element);
    left.append(make("div", { class: "faint" }, data.total ? "return so far; in colour: the joint value" : "return so far"));
    root.append(left, right);
    show();
    root.dataset.state = "ready";
  }

  const start = () => {
    for (const root of document.querySelectorAll(".viewer")) {
      const fold = root.closest("details");
      if (!fold || fold.open) mount(root);
      else fold.addEventListener("toggle", () => { if (fold.open) mount(root); });
    }
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
