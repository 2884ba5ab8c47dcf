// The list of rows: filters, pages, keys, and the address that keeps them. An opened row is in detail.js.

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;

const byId = (id) => document.getElementById(id);
const controls = { q: byId("search"), prompts: byId("in-prompts"), show: byId("agreement"), class: byId("class"), sort: byId("sort") };

/** What the address says: `row` is an index of a row, `status` has a status or "" for each run. */
const state = { row: null, page: 0, status: data.runs.map(() => "") };
/** Rows that match, in order. */
let shown = data.rows;
/** Whether the first of them does not match, but was linked to. */
let isLinked = false;

/** Prompts, results and metrics that many answers share are stored once. */
function pooled(place) {
  return place === null ? null : data.pool[place];
}

// Filters

const rightCount = (row) => row.answers.filter((answer) => answer.correct).length;

const AGREEMENTS = {
  "": ["all rows", () => true],
  right: ["every run right", (row) => row.answers.every((answer) => answer.correct)],
  wrong: ["every run wrong", (row) => row.answers.every((answer) => !answer.correct)],
  mixed: ["runs disagree", (row) => row.answers.some((answer) => answer.correct !== row.answers[0].correct)],
};

/** `0-1` rows that flipped between runs 0 and 1, `0>1` that only 0 has right, `0<1` that only 1 has right. */
function flipped(kind) {
  const [, first, sign, second] = kind.match(/^(\d+)([-<>])(\d+)$/) ?? [];
  if (data.runs[first] === undefined || data.runs[second] === undefined) return AGREEMENTS[""][1];
  return ({ answers }) => {
    const [a, b] = [answers[first].correct, answers[second].correct];
    return a !== b && (sign === "-" || (sign === ">") === a);
  };
}

const SORTS = {
  "": ["row", (a, b) => a.index - b.index],
  hard: ["fewest runs right", (a, b) => rightCount(a) - rightCount(b)],
  easy: ["most runs right", (a, b) => rightCount(b) - rightCount(a)],
  class: ["class", (a, b) => data.classes.indexOf(a.class) - data.classes.indexOf(b.class)],
  long: ["longest gold", (a, b) => b.gold.length - a.gold.length],
};

/** Small letters and single spaces. */
const plain = (text) => text.toLowerCase().replace(/\s+/g, " ");
/** A function of one argument that remembers. */
function remembered(make) {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) known.set(key, make(key));
    return known.get(key);
  };
}
const textOf = remembered((row) => plain([row.gold, ...row.answers.flatMap((answer) => [answer.prediction, answer.detail ?? ""])].join("\n")));
const promptText = remembered((place) => plain(pooled(place) ?? ""));

function matches(row, query, inPrompts) {
  if (query === "" || textOf(row).includes(query)) return true;
  return inPrompts && row.answers.some((answer) => promptText(answer.prompt).includes(query));
}

function filterRows() {
  isLinked = false;
  const query = plain(controls.q.value.trim());
  const show = controls.show.value;
  const agrees = AGREEMENTS[show]?.[1] ?? flipped(show);
  const statuses = [...state.status.entries()].filter(([, status]) => status !== "");
  shown = data.rows.filter(
    (row) =>
      agrees(row) &&
      (controls.class.value === "" || row.class === controls.class.value) &&
      statuses.every(([run, status]) => row.answers[run].status === status) &&
      matches(row, query, controls.prompts.checked),
  );
  if (controls.sort.value !== "") shown = [...shown].sort(SORTS[controls.sort.value][1]);
}

function option(value, label) {
  return element("option", { value }, label);
}

function buildFilters() {
  for (const [value, [label]] of Object.entries(AGREEMENTS)) controls.show.append(option(value, label));
  data.runs.forEach((first, i) => {
    data.runs.slice(i + 1).forEach((second, k) => {
      const j = i + 1 + k;
      const group = element("optgroup", { label: `flipped between ${first} and ${second}` });
      group.append(option(`${i}-${j}`, `flipped: ${first} / ${second}`), option(`${i}>${j}`, `only ${first} right, not ${second}`), option(`${i}<${j}`, `only ${second} right, not ${first}`));
      controls.show.append(group);
    });
  });
  controls.class.append(option("", "all"), ...data.classes.map((name) => option(name, name)));
  byId("class-filter").hidden = data.classes.length === 0;
  for (const [value, [label]] of Object.entries(SORTS)) {
    if (value !== "class" || data.classes.length > 0) controls.sort.append(option(value, label));
  }
  data.runs.forEach((run, i) => {
    const select = element("select", { id: `status-${i}` }, option("", "any"));
    for (const [value, { text }] of Object.entries(STATUSES)) select.append(option(value, text));
    select.addEventListener("change", () => {
      state.status[i] = select.value;
      changed();
    });
    byId("statuses").append(element("div", { class: "filter" }, element("label", { for: `status-${i}` }, run), select));
  });
}

// The address

function writeAddress() {
  const address = new URLSearchParams();
  for (const [key, control] of Object.entries(controls)) {
    if (control.type === "checkbox" ? control.checked : control.value !== "") address.set(key, control.type === "checkbox" ? "1" : control.value);
  }
  state.status.forEach((status, run) => status !== "" && address.set(`status${run}`, status));
  if (state.page > 0) address.set("page", String(state.page + 1));
  if (state.row !== null) address.set("row", String(state.row));
  history.replaceState(null, "", `#${address}`);
}

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  for (const [key, control] of Object.entries(controls)) {
    const value = address.get(key) ?? "";
    if (control.type === "checkbox") control.checked = value === "1";
    else control.value = value;
    // A select takes no value that it does not have.
    if (control.value === "" && control.tagName === "SELECT") control.selectedIndex = 0;
  }
  state.status = data.runs.map((_, run) => {
    const status = address.get(`status${run}`) ?? "";
    const known = status in STATUSES ? status : "";
    byId(`status-${run}`).value = known;
    return known;
  });
  if (state.status.some((status) => status !== "")) byId("status-filters").open = true;
  filterRows();
  state.page = Math.max(0, (Number.parseInt(address.get("page"), 10) || 1) - 1);
  const index = Number.parseInt(address.get("row"), 10);
  const row = data.rows.find((row) => row.index === index);
  state.row = row ? index : null;
  if (row) {
    // A link to a row shows it, whatever the filters say.
    isLinked = !shown.includes(row);
    if (isLinked) shown = [row, ...shown];
    state.page = Math.floor(shown.indexOf(row) / PAGE);
  }
  render();
  if (row) {
    header(index).focus({ preventScroll: true });
    header(index).scrollIntoView({ block: "start" });
  }
}

// The list

const lastPage = () => Math.max(0, Math.ceil(shown.length / PAGE) - 1);
const header = (index) => byId(`row-${index}`);

function render() {
  state.page = Math.min(state.page, lastPage());
  const rows = shown.slice(state.page * PAGE, (state.page + 1) * PAGE);
  byId("list").replaceChildren(...rows.map(listItem));
  const number = (n) => n.toLocaleString("en-US");
  byId("count").textContent = `${number(shown.length - isLinked)} of ${number(data.rows.length)} rows${isLinked ? ", and the one that was linked to" : ""}`;
  byId("pager").hidden = lastPage() === 0;
  byId("page-number").textContent = `Page ${number(state.page + 1)} of ${number(lastPage() + 1)}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === lastPage();
}

function listItem(row) {
  const marks = element("span", { class: "marks" });
  row.answers.forEach((answer, i) => {
    const { sign, text, look } = statusOf(answer);
    const mark = element("span", { class: `mark ${look}`, title: `${data.runs[i]}: ${text}` }, element("span", { "aria-hidden": "true" }, sign));
    mark.append(element("span", { class: "hidden-text" }, `${data.runs[i]}: ${text}. `));
    marks.append(mark);
  });
  const hasClasses = data.classes.length > 0;
  const button = element(
    "button",
    { type: "button", class: hasClasses ? "row" : "row plain", id: `row-${row.index}`, "aria-expanded": "false", "data-index": row.index },
    element("span", { class: "index" }, `#${row.index}`),
    hasClasses ? element("span", { class: "class" }, row.class ?? "") : null,
    // A title of the whole text would repeat thousands of letters to screen readers.
    element("span", { class: "gold" }, row.gold.slice(0, 300)),
    marks,
  );
  const item = element("li", null, button);
  if (row.index === state.row) expand(item, row);
  return item;
}

function expand(item, row) {
  const button = item.firstElementChild;
  const detail = rowDetail(row);
  detail.id = `detail-${row.index}`;
  detail.setAttribute("role", "region");
  detail.setAttribute("aria-labelledby", button.id);
  button.setAttribute("aria-expanded", "true");
  button.setAttribute("aria-controls", detail.id);
  item.append(detail);
}

function collapse() {
  const button = state.row === null ? null : header(state.row);
  button?.nextElementSibling?.remove();
  button?.setAttribute("aria-expanded", "false");
  button?.removeAttribute("aria-controls");
  state.row = null;
}

function toggle(index) {
  const wasOpen = state.row === index;
  collapse();
  if (!wasOpen) {
    state.row = index;
    expand(header(index).parentElement, data.rows.find((row) => row.index === index));
  }
  writeAddress();
}

function changed() {
  collapse();
  state.page = 0;
  filterRows();
  render();
  writeAddress();
}

function turn(pages) {
  collapse();
  state.page += pages;
  render();
  writeAddress();
}

/** Moves the focus by rows, over the ends of pages. */
function move(step) {
  const focused = document.activeElement?.closest("#list > li")?.firstElementChild ?? (state.row === null ? null : header(state.row));
  const at = focused ? shown.findIndex((row) => row.index === Number(focused.dataset.index)) : -1;
  const first = state.page * PAGE;
  const target = at < 0 ? first : at + step;
  if (target < 0 || target >= shown.length) return;
  const page = Math.floor(target / PAGE);
  if (page !== state.page) turn(page - state.page);
  header(shown[target].index).focus();
}

// Keys, theme, start

function onKey(event) {
  const isTyping = event.target.closest("input[type=search], select, textarea") !== null;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.key === "Escape") {
    if (event.target === controls.q) move(0);
    else if (state.row !== null) {
      const button = header(state.row);
      collapse();
      button?.focus();
      writeAddress();
    }
    return;
  }
  if (isTyping) return;
  const isOnRow = event.target.classList.contains("row");
  const actions = { "/": () => controls.q.focus(), j: () => move(1), k: () => move(-1), t: toggleTheme, "?": () => byId("help").showModal() };
  if (isOnRow) Object.assign(actions, { ArrowDown: actions.j, ArrowUp: actions.k });
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

const root = document.documentElement;
const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function nameTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

function toggleTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
}

function start() {
  buildFilters();
  let waiting;
  controls.q.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(changed, 120);
  });
  for (const control of Object.values(controls)) if (control !== controls.q) control.addEventListener("change", changed);
  const filters = byId("filters");
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(() => {
    state.status.fill("");
    changed();
  }));
  byId("list").addEventListener("click", (event) => {
    const button = event.target.closest(".row");
    if (button) toggle(Number(button.dataset.index));
  });
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address keeps the filters
    byId("rows").focus();
    byId("rows").scrollIntoView();
  });
  byId("theme").addEventListener("click", toggleTheme);
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", readAddress);
  nameTheme();
  byId("tools").hidden = false;
  filters.hidden = false;
  readAddress();
}

start();
