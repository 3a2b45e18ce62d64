// The page: keeps what the daemon told last, and draws the dashboard that is looked at. Text from the daemon only ever becomes text.

import { Chart } from "./charts.js";

const VIEWS = ["overview", "ollama", "agents"];
const POINTS = 360;
const WELL = new Set(["running", "scheduled", "finished", "external"]);
const BAD = new Set(["quarantined"]);

const seen = { status: {}, agents: new Map(), columns: { at: [] }, heardAt: 0 };
const $ = (id) => document.getElementById(id);

// --- how figures are written ---------------------------------------------------------------------------------------------

const NOTHING = "–";
const isKnown = (value) => value !== null && value !== undefined;
const whole = (value) => (isKnown(value) ? Math.round(value).toLocaleString("en") : NOTHING);
const percent = (value) => (isKnown(value) ? `${Math.round(value * 100)} %` : NOTHING);

function seconds(value) {
  if (!isKnown(value)) return NOTHING;
  if (value === 0) return "0 s";
  if (value < 0.995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 100) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 129600) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

function bytes(value) {
  if (!isKnown(value)) return NOTHING;
  if (value < 1e6) return `${Math.round(value / 1e3)} kB`;
  if (value < 1e9) return `${Math.round(value / 1e6)} MB`;
  return `${(value / 1e9).toFixed(value < 1e11 ? 1 : 0)} GB`;
}

const axis = (value) => (value >= 1000 ? `${value / 1000}k` : String(Math.round(value * 100) / 100));
const many = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

// --- making elements -----------------------------------------------------------------------------------------------------

function make(name, attributes = {}, ...inner) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (isKnown(value) && value !== "") made.setAttribute(key, value);
  made.append(...inner.filter(isKnown));
  return made;
}

// A place is only touched when what it shows is different: a selection and the focus in it stay.
const drawn = new WeakMap();
function fill(place, shown, build) {
  const key = JSON.stringify(shown);
  if (drawn.get(place) === key) return;
  drawn.set(place, key);
  place.replaceChildren(...[build(shown)].flat().filter(isKnown));
}

const none = (words) => make("p", { class: "none" }, words);
const state = (word, grade) => make("span", { class: "state", "data-is": grade }, word);

function table(heads, rows, label) {
  const head = make("tr", {}, ...heads.map((one) => make("th", { scope: "col", class: one.left ? "left" : null }, one.name ?? one)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, place) => {
    const left = heads[place].left ? "left" : null;
    return place === 0 ? make("th", { scope: "row" }, cell) : make("td", { class: left }, cell);
  })));
  return make("table", { "aria-label": label }, make("thead", {}, head), make("tbody", {}, ...body));
}

function figures(place, rows) {
  fill(place, rows, () => rows.map(([name, value, unit, words, grade]) =>
    make("dl", { class: "figure", "data-is": grade }, make("dt", {}, name), make("dd", {}, value, unit ? make("small", {}, unit) : null),
      make("p", {}, words ?? ""))));
}

function meter(name, share, words, grade) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  shape.setAttribute("aria-hidden", "true");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  rect.setAttribute("height", "8");
  rect.setAttribute("rx", "4");
  rect.setAttribute("width", `${Math.round(Math.max(0, Math.min(1, share || 0)) * 1000) / 10}%`);
  shape.append(rect);
  return make("div", { class: "meter", "data-is": grade }, make("span", {}, name), shape, make("b", {}, words));
}

function lines(rows, words) {
  if (!rows.length) return none(words);
  return make("ul", { class: "lines" }, ...rows.map(([left, right]) => make("li", {}, make("span", {}, left), make("span", {}, right ?? ""))));
}

// --- the verdict ---------------------------------------------------------------------------------------------------------

function drawVerdict({ level, health, queue, backends, classes, alerts, next }) {
  const running = sum(classes.map((one) => one.states.running ?? 0));
  const total = sum(classes.map((one) => one.total));
  const grade = level.level >= 3 || backends.some((one) => one.state !== "ready") ? "bad" : level.level > 0 || !health.is_good || alerts.length ? "watch" : "well";
  const word = { well: "All is well", watch: level.level > 0 ? `Level ${level.level}, ${level.name}` : "Something needs a look", bad: level.level >= 3 ? `Level ${level.level}, ${level.name}` : "Ollama does not answer" }[grade];
  $("verdict").dataset.grade = grade;
  $("word").textContent = word;
  document.title = `${grade === "well" ? "" : "● "}${word} – ai-supervisor`;
  const online = total ? `${running} of ${many(total, "agent")} online` : "no agent is in the config yet (ai-supervisor agents add)";
  const now = `${online}, ${whole(queue.queued)} waiting, ${whole(queue.running)} in the slots`;
  $("why").textContent = `${level.level > 0 ? `${level.reason}. ` : ""}${now[0].toUpperCase()}${now.slice(1)}.`;
  const reasons = [...health.reasons, ...(seen.status.down && seen.heardAt / 1000 - seen.status.started_at < 600
    ? [`nobody supervised for ${seconds(seen.status.down.lasted_s)}: ${seen.status.down.why}`] : [])];
  $("reasons").hidden = !reasons.length;
  fill($("reasons"), reasons, () => reasons.slice(0, 6).map((one) => make("li", {}, one)));
  $("next").hidden = !next.length;
  fill($("next"), next, () => [make("h2", {}, "What to type next"),
    make("ol", {}, ...next.slice(0, 4).map((one) => make("li", {}, make("code", {}, one.command), make("span", {}, one.why))))]);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

// --- the three dashboards ------------------------------------------------------------------------------------------------

const charts = {};

function chart(id, label, series, options) {
  charts[id] ??= new Chart($(id), label, series, options);
  charts[id].show(seen.columns);
}

const latest = (key) => (seen.columns[key] ?? []).at(-1);

function drawOverview(now) {
  const { level, queue, classes, cache, machine, backends, memory, alerts, happened } = now;
  const running = sum(classes.map((one) => one.states.running ?? 0));
  const slots = sum(backends.map((one) => one.slots)), busy = sum(backends.map((one) => one.busy));
  const oldest = Math.max(0, ...queue.by_priority.map((one) => one.oldest_s));
  const shares = cache.hits + cache.misses;
  const vram = machine?.gpus?.[0];
  figures($("overview-figures"), [
    ["Agents online", whole(running), `of ${whole(sum(classes.map((one) => one.total)))}`, now.attention.length ? `${now.attention.length} need a look` : "none needs a look", now.attention.length ? "watch" : null],
    ["Level", String(level.level), level.name, level.level ? level.reason : "everything is served", ["", "watch", "watch", "bad"][level.level]],
    ["Slots in use", `${busy}`, `of ${slots}`, many(queue.queued, "request") + (queue.queued === 1 ? " waits" : " wait")],
    ["Oldest waits", ...split(seconds(oldest)), queue.mode === "open" ? "the queue is open" : `the queue is ${queue.mode}`, queue.mode === "open" ? null : "watch"],
    ["From the cache", shares ? percent(cache.hits / shares) : NOTHING, "", `${seconds(cache.saved_s)} of slot time saved`],
    ["Memory free", ...split(bytes(machine?.available_bytes)), vram ? `graphics ${percent(vram.used_bytes / vram.total_bytes)} used` : `of ${bytes(machine?.total_bytes)}`],
  ]);
  chart("chart-requests", "Requests a minute", [
    { name: "answered", key: "answered" }, { name: "from the cache", key: "cached" }, { name: "refused", key: "refused" }, { name: "failed", key: "failed" }],
  { format: axis, least: 10 });
  chart("chart-queue", "Requests that wait", [{ name: "waiting", key: "queued" }, { name: "in the slots", key: "running" }], { format: axis, least: 5 });
  chart("chart-pressure", "Pressure", [
    { name: "queue", key: "pressure_queue", format: two }, { name: "memory", key: "pressure_memory", format: two }, { name: "processors", key: "pressure_cpu", format: two }],
  { format: axis, most: 1 });
  fill($("bottlenecks"), bottlenecks(now), (found) => found.map(([name, share, words, grade]) => meter(name, share, words, grade)));
  fill($("memory"), memory, () => memory.map((part) => {
    const share = isKnown(part.used_bytes) ? part.used_bytes / part.bytes : 0;
    const words = isKnown(part.used_bytes) ? `${bytes(part.used_bytes)} of ${bytes(part.bytes)}` : `planned ${bytes(part.bytes)}`;
    return meter(part.name, share, words, share > 1 ? "bad" : share > 0.9 ? "watch" : null);
  }));
  fill($("alerts"), alerts, () => lines(alerts.map((one) => [state(one.name, "bad"), one.advice || one.when]), "None fires."));
  fill($("happened"), happened, () => lines(happened.map((one) => [`${one.what}${one.count > 1 ? `, ${one.count} times` : ""}`, clock(one.last_wall)]), "Nothing went wrong."));
}

const two = (value) => value.toFixed(2);
const clock = (wall) => new Date(wall * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const split = (words) => [words.split(" ")[0], words.split(" ").slice(1).join(" ")];

function bottlenecks({ level, backends, machine }) {
  const graded = (share) => (share >= 0.95 ? "bad" : share >= 0.6 ? "watch" : null);
  const names = { queue: "Queue", memory: "Memory", cpu: "Processors" };
  const pressed = level.components.map((one) => [names[one.name] ?? one.name, one.pressure, isKnown(one.pressure) ? `pressure ${one.pressure.toFixed(2)}` : "not known", graded(one.pressure)]);
  const busy = sum(backends.map((one) => one.busy)), slots = sum(backends.map((one) => one.slots));
  const cards = (machine?.gpus ?? []).filter((one) => one.total_bytes).map((one) => ["Graphics", one.used_bytes / one.total_bytes, `${bytes(one.used_bytes)} of ${bytes(one.total_bytes)}`, one.used_bytes / one.total_bytes > 0.95 ? "watch" : null]);
  return [...pressed, ["Slots", slots ? busy / slots : 0, `${busy} of ${slots} in use`], ...cards,
    ["Cores", machine?.busy, isKnown(machine?.busy) ? `${percent(machine.busy)} of ${machine.cores}` : "not known"]];
}

function drawOllama(now) {
  const { backends, queue, cache, times } = now;
  const all = times.all;
  const busy = sum(backends.map((one) => one.busy)), slots = sum(backends.map((one) => one.slots));
  const loading = backends.map((one) => one.loading).filter(Boolean);
  const hits = cache.hits + cache.misses;
  figures($("ollama-figures"), [
    ["Ollama", backends.every((one) => one.state === "ready") ? "ready" : backends.find((one) => one.state !== "ready").state, "", `${busy} of ${slots} slots in use`, backends.every((one) => one.state === "ready") ? null : "bad"],
    ["Wait, median", ...split(seconds(all.wait.p50)), `p95 ${seconds(all.wait.p95)}`],
    ["First token, median", ...split(seconds(all.first_token.p50)), `p95 ${seconds(all.first_token.p95)}`],
    ["Generation, median", ...split(seconds(all.generation.p50)), `p95 ${seconds(all.generation.p95)}`],
    ["Tokens a second", whole(latest("tokens")), "", loading.length ? `loading ${loading[0]}` : many(sum(backends.map((one) => one.resident.length)), "model") + " loaded"],
    ["Hit rate", hits ? percent(cache.hits / hits) : NOTHING, "", `${whole(cache.hits)} of ${whole(hits)} that could`],
  ]);
  const line = (part) => [["p50", `${part}_p50`], ["p95", `${part}_p95`], ["p99", `${part}_p99`]].map(([name, key]) => ({ name, key, format: seconds }));
  chart("chart-wait", "Wait", line("wait"), { format: seconds, least: 1 });
  chart("chart-generation", "Generation", line("generation"), { format: seconds, least: 1 });
  const rows = [["all", all], ...Object.entries(times.classes)];
  fill($("times"), rows, () => {
    if (!times.count) return none("Nobody was answered by a model in the last 15 minutes.");
    const heads = [{ name: "Class", left: true }, "Requests", ...["Wait", "First token", "Generation", "Whole"].flatMap((part) => [`${part} p50`, "p95", "p99"])];
    return table(heads, rows.map(([name, part]) => [name, whole(part.count),
      ...["wait", "first_token", "generation", "total"].flatMap((one) => ["p50", "p95", "p99"].map((share) => seconds(part[one][share])))]), "Response times");
  });
  fill($("priorities"), queue.by_priority, () => (queue.by_priority.length
    ? table([{ name: "Priority", left: true }, "Waiting", "Oldest", "A new one waits"], queue.by_priority.map((one) => [String(one.priority), whole(one.queued), seconds(one.oldest_s), isKnown(one.estimate_s) ? seconds(one.estimate_s) : NOTHING]), "Queue by priority")
    : none("Nobody waits.")));
  const active = backends.flatMap((one) => one.running.map((run) => [run.agent, run.model ?? NOTHING, one.name, seconds(run.since_s), isKnown(run.tokens) ? whole(run.tokens) : NOTHING]));
  fill($("slots"), active, () => (active.length ? table([{ name: "Agent", left: true }, { name: "Model", left: true }, { name: "Ollama", left: true }, "Since", "Tokens"], active, "In the slots now") : none("No call runs.")));
  const resident = new Set(backends.flatMap((one) => one.resident));
  const loads = times.loads.map((one) => [one.model, resident.has(one.model) ? "loaded" : NOTHING, whole(one.count), seconds(one.last_s), seconds(one.mean_s)]);
  fill($("loads"), [loads, [...resident]], () => (loads.length
    ? table([{ name: "Model", left: true }, { name: "Now", left: true }, "Loads", "Last", "Mean"], loads, "Model loads")
    : none(resident.size ? `Loaded already: ${[...resident].join(", ")}.` : "No model was loaded yet.")));
  fill($("cache"), cache, () => table([{ name: "Tier", left: true }, "Hits", "Answers", "Size", "Limit"],
    cache.tiers.map((one) => [one.name, whole(one.hits), whole(one.entries), bytes(one.bytes), bytes(one.cap_bytes)]), "Cache"));
}

function drawAgents(now) {
  const { classes, backends, attention } = now;
  const of = (word) => sum(classes.map((one) => one.states[word] ?? 0));
  figures($("agents-figures"), [
    ["Online", whole(of("running")), `of ${whole(sum(classes.map((one) => one.total)))}`, `identity ${now.identity.level}`],
    ["Starting", whole(of("starting") + of("pending")), "", "in batches"],
    ["Waiting to restart", whole(of("backoff")), "", "back by themselves", of("backoff") ? "watch" : null],
    ["Quarantined", whole(of("quarantined")), "", "until they are released", of("quarantined") ? "bad" : null],
    ["Failed requests", whole(sum(classes.map((one) => one.ended.failed))), "", "since the start", sum(classes.map((one) => one.ended.failed)) ? "watch" : null],
    ["Past the queue", whole(now.bypasses.length), "", now.bypasses.length ? now.bypasses[0].agent : "nobody", now.bypasses.length ? "bad" : null],
  ]);
  const times = now.times.classes;
  const rows = classes.map((one) => [one.name, whole(one.total), whole(one.states.running ?? 0),
    whole((one.states.starting ?? 0) + (one.states.pending ?? 0) + (one.states.backoff ?? 0)), whole(one.states.quarantined ?? 0),
    whole(one.ended.answered + one.ended.cached), whole(one.ended.refused), whole(one.ended.failed),
    seconds(times[one.name]?.total.p50), seconds(times[one.name]?.total.p95), seconds(times[one.name]?.total.p99)]);
  fill($("classes"), rows, () => (rows.length
    ? table([{ name: "Class", left: true }, "Agents", "Online", "On the way", "Quarantined", "Answered", "Refused", "Failed", "Response p50", "p95", "p99"], rows, "Health by class")
    : none("There is no agent in the config: ai-supervisor agents add")));
  chart("chart-agents", "Agents online", [{ name: "online", key: "agents" }], { format: axis, least: 5 });
  chart("chart-errors", "Refused and failed a minute", [{ name: "refused", key: "refused", tone: 2 }, { name: "failed", key: "failed", tone: 4 }], { format: axis, least: 4 });
  const breakers = backends.map((one) => [one.name, one.state, one.breaker, whole(one.healed), whole(one.restarted)]);
  fill($("breakers"), breakers, () => table([{ name: "Ollama", left: true }, { name: "Answers", left: true }, { name: "Breaker", left: true }, "Slots healed", "Restarts"],
    breakers.map(([name, answers, breaker, healed, restarts]) => [name, state(answers, answers === "ready" ? "well" : "bad"), state(breaker, { closed: "well", open: "bad" }[breaker] ?? "watch"), healed, restarts]), "Breakers"));
  fill($("attention"), attention, () => (attention.length
    ? table([{ name: "Agent", left: true }, { name: "State", left: true }, { name: "Why", left: true }, { name: "Type", left: true }],
      attention.slice(0, 12).map((one) => [one.agent, state(one.state, graded(one.state)), one.verdict ?? NOTHING, make("code", {}, one.command)]), "Agents that need a look")
    : none("None.")));
  drawList();
}

const graded = (word) => (BAD.has(word) ? "bad" : WELL.has(word) ? "well" : word === "backoff" ? "watch" : null);

function drawList() {
  const words = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const all = [...seen.agents.values()];
  const found = all.filter((one) => words.every((word) => `${one.name} ${one.class} ${one.state} ${one.verdict ?? ""}`.toLowerCase().includes(word)));
  $("list-count").textContent = words.length ? `${found.length} of ${all.length}` : String(all.length);
  const rows = found.map((one) => [one.name, one.class, one.state, one.restarts, one.verdict, one.memory_bytes, one.cap_bytes, one.asked, one.wait_s, one.slot_s, one.tokens]);
  fill($("list"), rows, () => (rows.length
    ? table([{ name: "Agent", left: true }, { name: "Class", left: true }, { name: "State", left: true }, "Restarts", { name: "Last end", left: true }, "Memory", "Of", "Requests", "Mean wait", "Mean answer", "Tokens"],
      rows.map(([name, of, word, restarts, verdict, memory, cap, asked, wait, slot, tokens]) => [name, of, state(word, graded(word)), whole(restarts), verdict ?? NOTHING, bytes(memory), bytes(cap), whole(asked), seconds(wait), seconds(slot), whole(tokens)]), "All agents")
    : none(all.length ? "No agent is like that." : "There is no agent in the config.")));
}

const DRAW = { overview: drawOverview, ollama: drawOllama, agents: drawAgents };
const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview");

function show() {
  const chosen = view();
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== chosen;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!seen.status.level) return;
  drawVerdict(seen.status);
  DRAW[chosen](seen.status);
  $("about").textContent = `ai-supervisor ${seen.status.version}, up ${seconds(seen.status.now_wall - seen.status.started_at)}, ${bytes(seen.status.daemon.rss_bytes)} of memory`;
}

// --- what the daemon tells -----------------------------------------------------------------------------------------------

function take({ status, agents, gone = [] }, isWhole) {
  if (isWhole) seen.agents.clear();
  Object.assign(seen.status, status);
  for (const one of agents) seen.agents.set(one.name, one);
  for (const name of gone) seen.agents.delete(name);
  if (status.point) addPoint(status.point);
  seen.heardAt = Date.now();
  if (!document.hidden) show();
}

function addPoint(point) {
  const { at } = seen.columns;
  if (at.length && point.at <= at.at(-1)) return;
  const before = at.length;
  for (const [name, value] of Object.entries(point)) {
    seen.columns[name] ??= new Array(before).fill(null);
    seen.columns[name].push(value);
    if (seen.columns[name].length > POINTS) seen.columns[name].shift();
  }
}

async function readHistory() {
  const answer = await fetch("history", { cache: "no-store" });
  if (!answer.ok) return;
  const { columns } = await answer.json();
  seen.columns = columns.at ? columns : { at: [] };
  show();
}

function tell(word, is) {
  if ($("link").dataset.is === is) return;
  $("link").textContent = word;
  $("link").dataset.is = is;
}

let stream = null;
let again = null;

function connect() {
  clearTimeout(again);
  stream?.close();
  stream = new EventSource("events");
  stream.addEventListener("snapshot", (event) => {
    tell("live", "live");
    take(JSON.parse(event.data), true);
    readHistory().catch(() => {}); // the next snapshot brings it
  });
  stream.addEventListener("change", (event) => { tell("live", "live"); take(JSON.parse(event.data), false); });
  stream.addEventListener("error", () => {
    tell("no answer, trying again", "lost");
    // A browser that was refused a connection does not try again by itself.
    stream.close();
    again = setTimeout(connect, 1500);
  });
}

// --- colours and keys ----------------------------------------------------------------------------------------------------

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function chosenTheme() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

function paint() {
  const dark = (chosenTheme() ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
}

function turn() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", next); } catch { /* a browser that keeps nothing: for this time only */ }
  document.documentElement.dataset.theme = next;
  $("theme").setAttribute("aria-pressed", String(next === "dark"));
}

prefersDark.addEventListener("change", paint);
$("theme").addEventListener("click", turn);
$("search").addEventListener("input", drawList);
// Each dashboard begins at its top, with how things are. (No element has a view's name as its id: a browser would scroll there.)
addEventListener("hashchange", () => { show(); scrollTo(0, 0); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) show(); });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLInputElement) {
    if (event.key === "Escape") { event.target.value = ""; drawList(); event.target.blur(); }
    return;
  }
  if (["1", "2", "3"].includes(event.key)) location.hash = VIEWS[Number(event.key) - 1];
  else if (event.key === "t") turn();
  else if (event.key === "/") { event.preventDefault(); location.hash = "agents"; show(); $("search").focus(); }
});

paint();
show();
connect();
