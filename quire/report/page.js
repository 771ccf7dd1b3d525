// The page is whole without this script: it adds crosshairs, sliders, tooltips and the click on a token. Text only ever goes in as text.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const tip = $("#tip");

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const place = (x) => x.toLocaleString("en-US", { maximumFractionDigits: 2 });
function say(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-5) return value.toExponential(2).replace("e-", "e−");
  return size >= 1000 ? Math.round(value).toLocaleString("en-US") : size < 0.01 ? String(+value.toPrecision(4)) : value.toPrecision(4);
}
const shown = (token) => token.replace(/\n/g, "↵").replace(/\t/g, "→");

// --- charts: one crosshair for all the charts of a part, as they share their x axis -------------------------------------------------
function nearest(sorted, x) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle; else high = middle;
  }
  return Math.abs(sorted[low] - x) <= Math.abs(sorted[high] - x) ? low : high;
}
class Chart {
  constructor(figure, data) {
    Object.assign(this, { figure, data, plot: $(".plot", figure), output: $("output", figure) });
    this.cross = make("div", { className: "cross", hidden: true });
    this.dots = data.s.map((series) => this.cross.appendChild(make("i", { className: "c" + series.c })));
    this.plot.append(this.cross);
    this.rest();
  }
  top(value) {
    const [low, high] = this.data.y;
    return this.data.log ? 1 - Math.log(value / low) / Math.log(high / low) : 1 - (value - low) / (high - low);
  }
  rest() {
    this.cross.hidden = true;
    if (this.data.s.length === 1) this.read("last", this.data.s[0].y.at(-1)); else this.output.textContent = "";
  }
  read(where, value) {
    this.output.replaceChildren(where + " ", make("b", { textContent: say(value) }));
  }
  show(x) {
    const [left, right] = this.data.x;
    const places = this.data.s.map((series) => nearest(series.x, x));
    this.cross.hidden = false;
    const at = this.data.s.length === 1 ? this.data.s[0].x[places[0]] : x;
    this.cross.style.left = clamp(100 * (at - left) / (right - left), 0, 100) + "%";
    const texts = [];
    this.data.s.forEach((series, i) => {
      const value = series.y[places[i]];
      const there = x >= series.x[0] - (right - left) / 50 && x <= series.x.at(-1) + (right - left) / 50;
      this.dots[i].hidden = !there;
      this.dots[i].style.top = 100 * this.top(value) + "%";
      if (there) texts.push([series.n, value, series.c]);
    });
    if (this.data.s.length === 1) this.read(this.data.xu + " " + place(at), this.data.s[0].y[places[0]]);
    else this.output.textContent = this.data.xu + " " + place(at);
    this.values = texts;
  }
  tell() { // several curves: their values beside the crosshair
    if (this.data.s.length === 1) return;
    const rows = this.values.sort((a, b) => b[1] - a[1]).map(([name, value, colour]) =>
      make("div", { className: "row c" + colour }, make("i"), name + " ", make("b", { textContent: say(value) })));
    tip.replaceChildren(make("div", { className: "dim", textContent: this.output.textContent }), ...rows);
    tip.hidden = false;
    const box = this.plot.getBoundingClientRect(), x = box.left + box.width * parseFloat(this.cross.style.left) / 100;
    tip.style.left = clamp(x + 14 + tip.offsetWidth > innerWidth ? x - 14 - tip.offsetWidth : x + 14, 4, innerWidth) + "px";
    tip.style.top = clamp(box.top + 12, 4, Math.max(4, innerHeight - tip.offsetHeight - 4)) + "px";
  }
}
for (const part of $$("section")) {
  const charts = $$("figure[data-chart]", part).map((figure) => new Chart(figure, DATA[part.id][figure.dataset.chart]));
  const same = (a, b) => a.data.xu === b.data.xu && a.data.x[1] === b.data.x[1];
  for (const chart of charts) {
    const group = charts.filter((other) => same(chart, other));
    const [left, right] = chart.data.x;
    const move = (x) => { chart.at = clamp(x, left, right); group.forEach((other) => other.show(chart.at)); chart.tell(); };
    const rest = () => { group.forEach((other) => other.rest()); tip.hidden = true; };
    chart.plot.addEventListener("pointermove", (event) => {
      const box = chart.plot.getBoundingClientRect();
      move(left + (right - left) * (event.clientX - box.left) / box.width);
    });
    chart.plot.addEventListener("pointerleave", rest);
    chart.plot.addEventListener("blur", rest);
    chart.plot.addEventListener("focus", () => { if (chart.plot.matches(":focus-visible")) move(chart.at ?? right); });
    chart.plot.addEventListener("keydown", (event) => {
      const xs = chart.data.s[0].x, now = nearest(xs, chart.at ?? right);
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: xs.length - 1, PageUp: now - 10, PageDown: now + 10 }[event.key];
      if (to === undefined) { if (event.key === "Escape") rest(); return; }
      event.preventDefault();
      move(xs[clamp(to, 0, xs.length - 1)]);
    });
  }
}

// --- a slider with a play button ----------------------------------------------------------------------------------------------------
function slider(box, count, name, text, show) {
  const output = make("output");
  const input = make("input", { type: "range", min: 0, max: count - 1, value: count - 1, ariaLabel: name });
  const button = make("button", { type: "button", textContent: "Play" });
  let timer = 0;
  const go = (index) => {
    input.value = index;
    input.setAttribute("aria-valuetext", text(index));
    output.replaceChildren(make("b", { textContent: text(index) }));
    show(index);
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  input.addEventListener("input", () => { stop(); go(+input.value); });
  button.addEventListener("click", () => {
    if (timer) return stop();
    button.textContent = "Pause";
    let index = +input.value >= count - 1 ? 0 : +input.value;
    go(index);
    timer = setInterval(() => { if (++index >= count) stop(); else go(index); }, Math.max(180, Math.min(700, 14000 / count)));
  });
  box.replaceChildren(button, input, output);
  box.classList.add("live");
  if (count < 2) box.hidden = true;
  go(count - 1);
}
const stepName = (step) => "step " + step.toLocaleString("en-US");

for (const frames of $$("[data-frames]")) {
  const articles = $$("article", frames);
  const box = make("div", { className: "slider" });
  frames.prepend(box);
  frames.classList.add("live");
  slider(box, articles.length, "Moment of training", (i) => stepName(+articles[i].dataset.at), (i) => articles.forEach((a, j) => a.classList.toggle("on", i === j)));
}

// --- tokens: point at one, walk with the arrow keys, choose with Enter or a click -----------------------------------------------------
function tokenField(field, describe, choose) {
  const tokens = $$(".t", field);
  let on = -1;
  const leave = () => { if (on >= 0) tokens[on].classList.remove("on"); on = -1; tip.hidden = true; };
  const enter = (index) => {
    if (index === on) return;
    leave();
    on = index;
    tokens[on].classList.add("on");
    tip.replaceChildren(...describe(on));
    tip.hidden = false;
    const box = tokens[on].getClientRects()[0] ?? tokens[on].getBoundingClientRect();
    tip.style.left = clamp(box.left, 8, Math.max(8, innerWidth - tip.offsetWidth - 8)) + "px";
    const below = box.bottom + 8;
    tip.style.top = (below + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 8 : below) + "px";
  };
  const of = (event) => { const token = event.target.closest(".t"); return token ? +token.dataset.i : -1; };
  field.addEventListener("pointerover", (event) => { const index = of(event); if (index >= 0) enter(index); else leave(); });
  field.addEventListener("pointerleave", leave);
  field.addEventListener("blur", leave);
  field.addEventListener("click", (event) => { const index = of(event); if (index >= 0) { choose?.(index); leave(); enter(index); } });
  field.addEventListener("keydown", (event) => {
    const to = { ArrowRight: on + 1, ArrowLeft: on - 1, ArrowDown: on + 10, ArrowUp: on - 10, Home: 0, End: tokens.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const index = clamp(to, 0, tokens.length - 1);
      tokens[index].scrollIntoView({ block: "nearest" });
      enter(index);
    } else if (event.key === "Escape") leave();
    else if ((event.key === "Enter" || event.key === " ") && on >= 0 && choose) { event.preventDefault(); const index = on; choose(index); leave(); enter(index); }
  });
  addEventListener("scroll", () => { if (!field.contains(document.activeElement)) leave(); }, { passive: true });
  return tokens;
}

function sparkline(values, index) {
  const known = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
  if (known.length < 2) return "";
  const top = Math.max(...known.map(([, value]) => value), 1);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 34");
  svg.setAttribute("preserveAspectRatio", "none");
  const path = document.createElementNS(svg.namespaceURI, "path");
  const point = ([i, value]) => (100 * i / (values.length - 1)).toFixed(1) + " " + (33 - 32 * value / top).toFixed(1);
  const now = (100 * index / (values.length - 1)).toFixed(1);
  path.setAttribute("d", "M" + known.map(point).join("L") + "M" + now + " 0V34");
  svg.append(path);
  return svg;
}

if (DATA.surprise) {
  const { steps, bits, classes } = DATA.surprise;
  const section = $("#surprise"), output = $(".now output", section);
  let now = steps.length - 1;
  const tokens = tokenField($(".tokens", section), (index) => {
    const value = bits[now][index];
    const name = make("code", { textContent: shown(tokens[index].textContent.replace(/[↵→](?=[\n\t])/g, "")) });
    if (value === null || value === undefined) return [name, " not scored: nothing stands before it"];
    const chance = 100 * 2 ** -value;
    const words = chance >= 0.1 ? chance.toPrecision(3).replace(/\.?0+$/, "") + " %" : "1 in " + place(Math.round(2 ** value));
    return [name, ` ${value.toFixed(2)} bits, a chance of ${words}`, make("br"), "over training:", sparkline(bits.map((row) => row[index]), now)];
  });
  slider($("[data-slider]", section), steps.length, "Moment of training", (i) => stepName(steps[i]), (i) => {
    now = i;
    let sum = 0, count = 0;
    tokens.forEach((token, index) => {
      const value = bits[i][index], known = value !== null && value !== undefined;
      token.className = "t" + (known ? " s" + classes.filter((limit) => value >= limit).length : "");
      if (known) { sum += value; count++; }
    });
    output.textContent = `Step ${steps[i].toLocaleString("en-US")}: ${(sum / Math.max(count, 1)).toFixed(2)} bits a token on average`;
  });
}

// --- attention --------------------------------------------------------------------------------------------------------------------
if (DATA.attention) {
  const { t: texts, n: layers, h: heads, w } = DATA.attention;
  const bytes = Uint8Array.from(atob(w), (letter) => letter.charCodeAt(0));
  const size = texts.length, section = $("#attention"), output = $(".now output", section);
  const buttons = $$(".head", section);
  let from = DATA.attention.from, chosen = -1; // -1: the mean of all heads
  const one = (head, to) => (bytes[(head * size + from) * size + to] / 255) ** 2;
  const weight = (to) => {
    if (chosen >= 0) return one(chosen, to);
    let sum = 0;
    for (let head = 0; head < layers.length * heads; head++) sum += one(head, to);
    return sum / (layers.length * heads);
  };
  const headName = (head) => `layer ${layers[Math.floor(head / heads)]}, head ${(head % heads) + 1}`;
  const strongest = (head) => {
    let best = 0;
    for (let to = 1; to < size; to++) if (one(head, to) > one(head, best)) best = to;
    return best;
  };
  function show() {
    tokens.forEach((token, index) => {
      token.style.setProperty("--w", Math.sqrt(weight(index)).toFixed(3));
      token.classList.toggle("q", index === from);
    });
    buttons.forEach((button, head) => {
      const line = $("i", button), best = strongest(head);
      line.style.top = 100 * from / size + "%";
      line.style.height = 100 / size + "%";
      button.setAttribute("aria-pressed", head === chosen);
      button.title = `${headName(head)}: looks most at “${shown(texts[best])}” (${Math.round(100 * one(head, best))} %)`;
    });
    const order = texts.map((_, to) => [weight(to), to]).sort((a, b) => b[0] - a[0]).slice(0, 4).filter(([value]) => value > 0.005);
    output.replaceChildren("From ", make("code", { textContent: shown(texts[from]) }), `, ${chosen < 0 ? "the mean of all heads" : headName(chosen)}: `);
    order.forEach(([value, to], i) => output.append(i ? ", " : "", make("code", { textContent: shown(texts[to]) }), ` ${Math.round(100 * value)} %`));
  }
  const tokens = tokenField($(".tokens", section), (to) => [
    make("code", { textContent: shown(texts[to]) }), ` gets ${(100 * weight(to)).toFixed(1)} % of the attention of `, make("code", { textContent: shown(texts[from]) }),
  ], (index) => { from = index; show(); });
  buttons.forEach((button, head) => button.addEventListener("click", () => { chosen = chosen === head ? -1 : head; show(); }));
  $(".heads", section).parentElement.classList.add("live");
  show();
}
