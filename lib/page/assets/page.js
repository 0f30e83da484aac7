/** The status page: puts what the server tells into its places. The words are the server's. */

const html = document.documentElement;
const at = (id) => document.getElementById(id);
/** Times are UTC, as in the log. */
const clock = (ms) => `${new Date(ms).toISOString().slice(11, 19)}Z`;

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Makes the children anew only where they differ: focus, selection and scrolling stay. */
function list(element, items, render) {
  const shown = JSON.stringify(items);
  if (element.dataset.shown === shown) return;
  element.dataset.shown = shown;
  element.replaceChildren(...items.map(render));
}

// ---- the view

const RELOAD_MS = 60_000;

function show(view) {
  if (view.code !== html.dataset.code) reload();
  const { healthy, verdict, instance, state, progress } = view;
  put(at("mirrors"), view.mirrors);
  judge(healthy, verdict);
  put(at("instance"), `This instance: ${instance.why}`);
  at("scan").hidden = progress === null;
  if (progress) {
    at("scan-bar").value = progress.share;
    put(at("scan-text"), progress.text);
  }
  list(at("findings"), view.findings, finding);
  lightState(state);
  showFacts(view.facts);
  list(at("events"), view.events, eventRow);
}

/** @param healthy null: not known */
function judge(healthy, verdict) {
  put(at("verdict"), verdict[0].toUpperCase() + verdict.slice(1));
  at("verdict").className = healthy === null ? "" : healthy ? "good" : "bad";
  put(document.querySelector("title"), `${healthy ? "" : "✕ "}${at("stream").textContent} · etcd-pg-sync`);
}

/** The daemon is of another version now. Not again and again: a cache or two instances may stand behind one address. */
function reload() {
  if (Date.now() - Number(sessionStorage.getItem("reloaded")) < RELOAD_MS) return;
  sessionStorage.setItem("reloaded", String(Date.now()));
  location.reload();
}

function finding({ code, severity, text, advice }) {
  const item = make("li", severity);
  const what = make("p");
  what.append(make("span", "code", code), text);
  const todo = make("p", "advice", "→ ");
  todo.append(...advice.split("`").map((part, i) => i % 2 ? make("code", "", part) : part));
  item.append(what, todo);
  return item;
}

function lightState(state) {
  put(at("state"), state ?? "not known");
  for (const group of document.querySelectorAll("#machine .state")) {
    group.classList.toggle("lit", group.id === `state-${state}`);
  }
}

/** Ages change every second: where the lines are the same ones, only their texts do. */
function showFacts(facts) {
  const labels = facts.map(([label]) => [label]);
  list(at("facts"), labels, ([label]) => {
    const pair = document.createDocumentFragment();
    pair.append(make("dt", "", label), make("dd"));
    return pair;
  });
  at("facts").querySelectorAll("dd").forEach((dd, i) => put(dd, facts[i][1]));
}

function row(cells) {
  const line = make("tr");
  line.append(...cells);
  return line;
}

function eventRow({ at, kind, revision, text }) {
  return row([
    make("td", "", at),
    make("td", "", kind),
    make("td", "number", revision),
    make("td", "", text),
  ]);
}

// ---- the plots

const MINUTES = 10;
const PLOTS = [
  {
    title: "Throughput",
    least: 10,
    unit: "/s",
    series: [{ name: "etcd → SQL", color: "--in" }, { name: "SQL → etcd", color: "--out" }],
  },
  {
    title: "Lag",
    least: 2,
    unit: " s",
    series: [{ name: "age of the proof that it is fresh", color: "--in" }],
  },
  { title: "WAL", least: 10, unit: "", series: [{ name: "writes from SQL that wait", color: "--out" }] },
  {
    title: "Writes not applied",
    least: 5,
    unit: "",
    sums: true,
    series: [{ name: "lost to etcd", color: "--out" }, { name: "refused by etcd", color: "--in" }],
  },
];

/** Columns: times, then each series of each plot, as the server's samples have them. */
let samples = Array.from({ length: 7 }, () => []);

/** After a restart of the server its first samples follow ours; a silence is a gap. */
function add(rows) {
  if (rows.length === 0) return;
  const [first] = rows[0];
  const keep = samples[0].findLastIndex((time) => time < first) + 1;
  samples = samples.map((column) => column.slice(0, keep));
  for (const sample of rows) {
    const last = samples[0].at(-1);
    if (last !== undefined && sample[0] - last > 3) {
      samples.forEach((column, i) => column.push(i === 0 ? last + 1 : null));
    }
    samples.forEach((column, i) => column.push(sample[i]));
  }
  const oldest = samples[0].at(-1) - MINUTES * 60;
  const drop = samples[0].findIndex((time) => time >= oldest);
  samples = samples.map((column) => column.slice(drop));
  draw();
}

const plots = PLOTS.map((plot, n) => {
  const first = 1 + PLOTS.slice(0, n).reduce((sum, { series }) => sum + series.length, 0);
  return { ...plot, columns: plot.series.map((_, i) => first + i), ...figure(plot) };
});

function figure({ title, series }) {
  const element = make("figure");
  const caption = make("figcaption");
  caption.append(make("span", "", title));
  const values = series.map(({ name, color }) => {
    const part = make("span", "series");
    const swatch = make("span", `swatch ${color === "--in" ? "s1" : "s2"}`);
    const value = make("span", "value", "–");
    part.append(swatch, make("span", "label", `${name} `), value);
    caption.append(part);
    return value;
  });
  const place = make("div", "plot");
  place.tabIndex = 0;
  place.role = "img";
  place.ariaLabel = `${title} over the last ten minutes; the arrow keys read it`;
  element.append(caption, place);
  at("plots").append(element);
  return { place, values };
}

const color = (name) => getComputedStyle(html).getPropertyValue(name).trim();

/** In the colours of the hour: a canvas does not follow the style sheet. */
function build() {
  for (const plot of plots) {
    plot.chart?.destroy();
    plot.chart = new globalThis.uPlot(options(plot), data(plot), plot.place);
  }
  draw();
}

function options({ place, series, least, unit }) {
  const axis = {
    stroke: color("--quiet"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: color("--line"), width: 1 },
  };
  return {
    width: place.clientWidth,
    height: 110,
    legend: { show: false },
    padding: [8, 8, 0, 0],
    tzDate: (seconds) => globalThis.uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
    cursor: { sync: { key: "time" }, drag: { x: false, y: false }, points: { size: 5 }, y: false },
    hooks: { setCursor: [(chart) => read(chart.cursor.idx)] },
    scales: {
      x: { range: () => range() },
      y: { range: (_chart, _least, most) => [0, Math.max(least, (most ?? 0) * 1.08)] },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        ticks: { stroke: color("--line"), size: 4 },
        size: 22,
        space: 70,
        values: "{HH}:{mm}",
      },
      {
        ...axis,
        ticks: { show: false },
        size: 52,
        space: 32,
        gap: 6,
        values: (_chart, ticks) => ticks.map((tick) => short(tick) + unit),
      },
    ],
    series: [
      {},
      ...series.map(({ color: name }) => ({ stroke: color(name), width: 1.5, points: { show: false } })),
    ],
  };
}

function range() {
  const now = samples[0].at(-1) ?? Date.now() / 1e3;
  return [now - MINUTES * 60, now];
}

function data({ columns }) {
  return [samples[0], ...columns.map((column) => samples[column])];
}

function draw() {
  if (!plots[0].chart) return;
  for (const plot of plots) plot.chart.setData(data(plot));
  read(plots[0].chart.cursor.idx);
}

/** Tick labels: `1.5k`. */
function short(value) {
  return value >= 1e6 ? `${value / 1e6}M` : value >= 1e3 ? `${value / 1e3}k` : String(value);
}

function exact(value, unit) {
  if (value === null || value === undefined) return "–";
  return (value >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(value * 10) / 10)) + unit;
}

/** What the captions say: the sample under the cursor, else the newest; of losses, without a cursor, all. */
function read(index) {
  const under = index ?? null;
  put(
    at("readout"),
    under === null || samples[0][under] === undefined ? "" : `at ${clock(samples[0][under] * 1e3)}`,
  );
  for (const { columns, values, unit, sums } of plots) {
    columns.forEach((column, i) => {
      const of = samples[column];
      const all = sums && under === null && of.some((value) => value !== null);
      put(
        values[i],
        exact(all ? of.reduce((sum, value) => sum + value, 0) : of[under ?? of.length - 1], unit),
      );
    });
  }
}

/** Arrow keys move the cursor through time, in all plots at once. */
function move(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -60, PageDown: 60 }[event.key];
  const times = samples[0];
  if (event.key === "Escape") return plots.forEach(({ chart }) => chart.setCursor({ left: -10, top: -10 }));
  if (step === undefined || times.length === 0) return;
  event.preventDefault();
  const from = plots[0].chart.cursor.idx ?? times.length - 1;
  const to = Math.min(Math.max(from + step, 0), times.length - 1);
  for (const { chart } of plots) chart.setCursor({ left: chart.valToPos(times[to], "x"), top: 10 });
}

// ---- the connection

/** A frame comes each second. */
const SILENCE_MS = 6_000;
const AGAIN_MS = 1_000;
let source;
let triedAt = 0;
let heardAt = Date.now();
/** The last that was heard. */
let last;

function connect() {
  source?.close();
  triedAt = Date.now();
  source = new EventSource("events");
  source.addEventListener("view", ({ data }) => {
    heardAt = Date.now();
    linked(true);
    last = JSON.parse(data);
    show(last);
  });
  source.addEventListener("samples", ({ data }) => add(JSON.parse(data)));
  source.addEventListener("error", () => linked(false));
}

function linked(live) {
  put(at("link"), live ? "live" : `disconnected since ${clock(heardAt)}`);
  at("link").className = live ? "live" : "lost";
  put(at("clock"), live ? clock(heardAt) : "");
  document.body.classList.toggle("lost", !live);
  if (live) return;
  put(at("instance"), "");
  judge(null, last ? `not known; at ${clock(heardAt)} ${last.verdict}` : "not known");
}

/** A browser gives up where a proxy answers in the daemon's place, and notices no cable that was pulled. */
function watch() {
  if (document.hidden) return;
  const silent = Date.now() - heardAt > SILENCE_MS;
  if (silent) linked(false);
  const over = source.readyState === EventSource.CLOSED || silent && Date.now() - triedAt > SILENCE_MS;
  if (over && Date.now() - triedAt >= AGAIN_MS) connect();
}

/** A page that nobody sees asks nothing. */
function seen() {
  if (document.hidden) return source.close();
  heardAt = Date.now();
  connect();
}

// ---- a key's history

async function search(key) {
  put(at("found"), "looking");
  const response = await fetch(`history?key=${encodeURIComponent(key)}`).catch((error) => error);
  if (!response.ok) {
    put(at("found"), `Cannot search: ${response.text ? (await response.text()).trim() : "no connection"}`);
    return;
  }
  const { versions, more, keys } = await response.json();
  put(at("found"), found(key, versions, more));
  const others = keys.filter((other) => other !== key);
  at("others").hidden = others.length === 0;
  list(at("keys"), others, keyLink);
  at("versions").hidden = versions.length === 0;
  if (versions.length > 0) at("versions").replaceChildren(table(versions));
}

function found(key, versions, more) {
  if (versions.length === 0) return `No revision of '${key}' was seen`;
  const count = more
    ? `the newest ${versions.length} revisions`
    : versions.length === 1
    ? "1 revision"
    : `${versions.length} revisions`;
  return `'${key}': ${count}, newest first`;
}

function keyLink(key) {
  const item = make("li");
  const button = make("button", "", key);
  button.type = "button";
  button.addEventListener("click", () => {
    at("key").value = key;
    at("key").focus();
    search(key);
  });
  item.append(button);
  return item;
}

function table(versions) {
  const element = make("table");
  const head = make("thead");
  const titles = ["Revision", "Time", "Version", "Lease", "Value"].map((title, i) => {
    const cell = make("th", i === 0 || i === 2 ? "number" : "", title);
    cell.scope = "col";
    return cell;
  });
  head.append(row(titles));
  const body = make("tbody");
  body.append(...versions.map(versionRow));
  element.append(head, body);
  return element;
}

function versionRow({ timeline, revision, at, version, lease, tombstone, value, bytes, cut }) {
  const shown = make("td");
  if (tombstone) shown.append(make("span", "label", "deleted"));
  else {
    shown.append(make("pre", "", value));
    if (cut) shown.append(make("span", "label", `… of ${bytes.toLocaleString("en")} bytes`));
  }
  return row([
    make("td", "number", timeline > 1 ? `${timeline}:${revision}` : String(revision)),
    make("td", "", at),
    make("td", "number", tombstone ? "" : String(version)),
    make("td", "", lease === "0" ? "" : lease),
    shown,
  ]);
}

// ---- begin

build();
for (const { place } of plots) {
  place.addEventListener("keydown", move);
  place.addEventListener(
    "blur",
    () => plots.forEach(({ chart }) => chart.setCursor({ left: -10, top: -10 })),
  );
}
new ResizeObserver(() => {
  for (const { chart, place } of plots) chart.setSize({ width: place.clientWidth, height: 110 });
}).observe(at("plots"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
document.addEventListener("visibilitychange", seen);
at("search")?.addEventListener("submit", (event) => {
  event.preventDefault();
  search(at("key").value);
});
connect();
setInterval(watch, AGAIN_MS);
