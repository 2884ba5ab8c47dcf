// An opened row. Data goes onto the page as text only: predictions are what a model wrote, and may be anything.

/** An element with classes, attributes and children; children that are strings become text. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const STATUSES = {
  correct: { sign: "✓", text: "right", look: "correct" },
  wrong: { sign: "✗", text: "wrong", look: "wrong" },
  prediction_error: { sign: "E", text: "no answer", look: "failed" },
  timeout: { sign: "T", text: "out of time", look: "failed" },
  gold_error: { sign: "G", text: "gold unusable", look: "failed" },
};

function statusOf(answer) {
  return STATUSES[answer.status] ?? { sign: "?", text: answer.status, look: "failed" };
}

/** Everything about a row. */
function rowDetail(row) {
  const gold = element(
    "section",
    { "aria-label": "Gold" },
    element("h4", null, "Gold"),
    textBlock("gold", row.gold),
    ...resultOf("Gold result", pooled(row.result), null),
  );
  const answers = element("div", { class: "answers" });
  row.answers.forEach((answer, i) => answers.append(answerCard(row, answer, data.runs[i])));
  return element("div", { class: "detail" }, gold, answers, prompts(row));
}

/** A text that can be scrolled, and so must be reachable by key. */
function textBlock(label, text) {
  return element("pre", { tabindex: "0", role: "region", "aria-label": label }, text);
}

function answerCard(row, answer, run) {
  const status = statusOf(answer);
  const card = element(
    "section",
    { class: "answer", "aria-label": `Answer of ${run}` },
    element(
      "div",
      { class: "head" },
      element("h3", null, run),
      element("span", { class: `mark ${status.look}` }, `${status.sign} ${status.text}`),
    ),
  );
  if (answer.detail) card.append(element("p", { class: "reason" }, answer.detail));
  card.append(element("h4", null, "Prediction"), textBlock(`prediction of ${run}`, answer.prediction));
  if (answer.prediction !== row.gold) {
    const changes = element("pre", { class: "difference", tabindex: "0", role: "region", "aria-label": `difference of ${run} from gold` });
    for (const [kind, text] of difference(row.gold, answer.prediction)) {
      changes.append(kind === "same" ? text : element(kind === "added" ? "ins" : "del", null, text));
    }
    card.append(element("h4", null, "From gold (struck out) to prediction (underlined)"), changes);
  }
  card.append(...resultOf("Result", pooled(answer.result), { gold: pooled(row.result), correct: answer.correct }));
  const metrics = element("ul", { class: "metrics", "aria-label": "Metrics of this row" });
  for (const [name, value] of pooled(answer.metrics) ?? []) {
    metrics.append(element("li", null, `${name.replaceAll("_", " ")} ${share(value)}`));
  }
  if (metrics.childElementCount > 0) card.append(metrics);
  return card;
}

/** What a row adds to a metric: a number, or a part and a whole. */
function share(value) {
  const number = (n) => (Number.isInteger(n) ? String(n) : n.toFixed(3));
  if (typeof value === "number") return number(value);
  if (Array.isArray(value) && value.length === 2) return `${number(value[0])} of ${number(value[1])}`;
  return value === null ? "-" : String(value);
}

/** A result as a heading, a table and remarks; `against` is the gold result, if this is an answer's. */
function resultOf(title, result, against) {
  if (!result) return [];
  const gold = against?.gold;
  // An answer that counts as right may have its rows or columns in another order.
  const isCompared = Boolean(gold) && !against.correct;
  const missing = isCompared ? unmatched(result.rows, gold.rows) : new Set();
  const body = element("tbody");
  result.rows.forEach((cells, i) => {
    const line = element("tr", missing.has(i) ? { class: "differs" } : null);
    cells.forEach((cell, column) => {
      const other = gold?.rows[i];
      const isSame = missing.has(i) && other?.length === cells.length && text(other[column]) === text(cell);
      line.append(element("td", isSame ? { class: "same" } : null, value(cell)));
    });
    body.append(line);
  });
  const names = element("tr");
  for (const name of result.columns) names.append(element("th", { scope: "col" }, name));
  const box = element("div", { class: "result", tabindex: "0", role: "region", "aria-label": title });
  box.append(element("table", null, element("thead", null, names), body));

  const count = (rows) => `${rows} ${rows === 1 ? "row" : "rows"}`;
  let remark = count(result.total_rows);
  if (result.rows.length < result.total_rows) remark += `, the first ${result.rows.length} shown`;
  if (isCompared && gold.total_rows !== result.total_rows) remark += `; gold has ${count(gold.total_rows)}`;
  if (isCompared && gold.columns.length !== result.columns.length) remark += `; gold has ${gold.columns.length} columns`;
  if (missing.size > 0) remark += `; marked: ${missing.size} not among the rows of gold that are shown`;
  return [element("h4", null, title), box, element("p", { class: "remark" }, remark)];
}

/** Indices of rows that `others` do not have, or not as often. */
function unmatched(rows, others) {
  const left = new Map();
  for (const row of others) {
    const key = JSON.stringify(row);
    left.set(key, (left.get(key) ?? 0) + 1);
  }
  const missing = new Set();
  rows.forEach((row, i) => {
    const key = JSON.stringify(row);
    const copies = left.get(key) ?? 0;
    if (copies === 0) missing.add(i);
    else left.set(key, copies - 1);
  });
  return missing;
}

function text(cell) {
  return typeof cell === "string" ? cell : JSON.stringify(cell);
}

function value(cell) {
  return cell === null ? element("span", { class: "null" }, "null") : text(cell);
}

/** Each different prompt once, with its examples and the runs that had it. */
function prompts(row) {
  const kinds = new Map();
  row.answers.forEach((answer, i) => {
    const key = `${answer.prompt} ${answer.examples}`;
    if (!kinds.has(key)) kinds.set(key, { prompt: pooled(answer.prompt), examples: pooled(answer.examples) ?? [], runs: [] });
    kinds.get(key).runs.push(data.runs[i]);
  });
  const section = element("section", { "aria-label": "Prompts" });
  for (const { prompt, examples, runs } of kinds.values()) {
    const who = runs.length === data.runs.length ? "all runs" : runs.join(", ");
    section.append(element("h4", null, `Prompt of ${who}`));
    section.append(prompt === null ? element("p", { class: "remark" }, "unknown") : textBlock(`prompt of ${who}`, prompt));
    if (examples.length > 0) section.append(exampleTable(examples));
  }
  return section;
}

function exampleTable(examples) {
  const body = element("tbody");
  for (const example of examples) {
    const score = typeof example?.score === "number" ? example.score.toFixed(4) : "-";
    body.append(element("tr", null, element("td", null, String(example?.row ?? "-")), element("td", { class: "number" }, score)));
  }
  const head = element("tr", null, element("th", { scope: "col" }, "train row"), element("th", { scope: "col" }, "score"));
  return element(
    "table",
    { class: "examples" },
    element("caption", null, "Retrieved examples, in the prompt's order"),
    element("thead", null, head),
    body,
  );
}
