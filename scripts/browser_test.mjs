// What scripts/browser-test.sh does in the browser. usage: browser_test.mjs BROWSER FOLDER PICTURES
//
// FOLDER holds report.html by the example sample_report: 1,319 rows of 6 runs, the first of them hostile. Every check
// prints a line; the first that fails ends the test.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

import puppeteer from "puppeteer-core";

const [executablePath, folder, pictures] = process.argv.slice(2);
const page_url = pathToFileURL(path.join(folder, "report.html")).href;
const MINIMUM_CONTRAST = 4.5;
const LOAD_LIMIT_MS = 3000;
const FILTER_LIMIT_MS = 500;

const browser = await puppeteer.launch({
  executablePath,
  headless: true,
  // A sandbox needs rights that containers and root do not have; the page is our own.
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

const problems = [];
const requests = [];

/** A page that notes each error, refusal and request. */
async function open({ hash = "", dark = false, width = 1200, height = 900, javascript = true } = {}) {
  const page = await browser.newPage();
  await page.setJavaScriptEnabled(javascript);
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("dialog", (dialog) => problems.push(`dialog: ${dialog.message()}`) && dialog.dismiss());
  page.on("request", (request) => requests.push(request.url().split("#")[0]));
  await page.goto(page_url + hash, { waitUntil: "load" });
  return page;
}

const count = (page) => page.$eval("#count", (element) => element.textContent);
const rows = (page) => page.$$eval("#list .row", (buttons) => buttons.map((button) => Number(button.dataset.index)));
const focus = (page) => page.evaluate(() => document.activeElement.id);
const hash = (page) => page.evaluate(() => location.hash);
const opened = (page) => page.$$eval("#list .row[aria-expanded=true]", (buttons) => buttons.map((button) => button.id));
const settle = (page) => page.evaluate(() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 200)));

async function search(page, text) {
  await page.$eval("#search", (input) => (input.value = ""));
  await page.type("#search", text);
  await settle(page);
}

/** Texts with too little contrast to what lies behind them: "ratio: text". Charts have their own light card. */
function lowContrast(minimum) {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => {
    const [r, g, b] = [...color].map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
      if (color[3] !== 0) throw new Error(`a half transparent ground: ${at.outerHTML.slice(0, 80)}`);
    }
    throw new Error("no ground");
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() === "" || element.closest("svg, script, noscript") || !element.checkVisibility()) continue;
    seen += 1;
    const [a, b] = [luminance(rgba(getComputedStyle(element).color)), luminance(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < minimum) found.push(`${ratio.toFixed(2)}: ${element.tagName}.${element.className} ${walker.currentNode.data.slice(0, 40)}`);
  }
  return { found, seen };
}

const checks = {
  async "loads from disk, fast, and shows every row's count"() {
    const page = await open();
    assert.equal(await count(page), "1,319 of 1,319 rows");
    assert.equal((await rows(page)).length, 50);
    const load = await page.evaluate(() => performance.getEntriesByType("navigation")[0].loadEventEnd);
    assert.ok(load < LOAD_LIMIT_MS, `${load} ms`);
    await page.close();
    return `1,319 rows x 6 runs in ${load.toFixed(0)} ms`;
  },

  async "tables and charts show without a script"() {
    const page = await open({ javascript: false });
    // Puppeteer's own evaluation works where the page's scripts do not.
    const text = await page.evaluate(() => document.body.innerText);
    for (const expected of ["RAG adapter, 1 example", "exact set match", "within noise", "needs JavaScript", "synthetic data"]) {
      assert.ok(text.includes(expected), expected);
    }
    assert.equal((await page.$$("figure svg")).length, 2);
    assert.equal(await page.$eval("#filters", (element) => element.checkVisibility()), false);
    await page.close();
  },

  async "filters by text, class, status, agreement and flips"() {
    const page = await open();
    const all = await page.evaluate(() => data.rows.map(({ index, gold, class: name, answers }) => ({ index, gold, name, answers: answers.map(({ correct, status, prediction }) => ({ correct, status, prediction })) })));
    const matching = async (keep) => {
      await settle(page);
      const expected = all.filter(keep).length;
      assert.ok(expected > 0 && expected < all.length, `${expected} rows`);
      assert.equal(await count(page), `${expected.toLocaleString("en-US")} of 1,319 rows`);
    };
    const has = (text) => (row) => [row.gold, ...row.answers.map((answer) => answer.prediction)].some((t) => t.toLowerCase().includes(text));
    const started = Date.now();
    await page.type("#search", "GROUP by code");
    await page.waitForFunction(() => !document.getElementById("count").textContent.startsWith("1,319"));
    const took = Date.now() - started;
    assert.ok(took < FILTER_LIMIT_MS + 13 * 30, `${took} ms`);
    await matching(has("group by code"));
    await page.select("#class", "hard");
    await matching((row) => has("group by code")(row) && row.name === "hard");
    await page.click("#filters button[type=reset]");
    await settle(page);
    assert.equal(await count(page), "1,319 of 1,319 rows");
    await page.select("#agreement", "wrong");
    await matching((row) => row.answers.every((answer) => !answer.correct));
    await page.select("#agreement", "1-4");
    await matching((row) => row.answers[1].correct !== row.answers[4].correct);
    await page.select("#agreement", "0<5");
    await matching((row) => !row.answers[0].correct && row.answers[5].correct);
    await page.select("#agreement", "");
    await page.click("#status-filters summary");
    await page.select("#status-2", "timeout");
    await matching((row) => row.answers[2].status === "timeout");
    await page.select("#status-3", "correct");
    await matching((row) => row.answers[2].status === "timeout" && row.answers[3].status === "correct");
    await page.click("#filters button[type=reset]");
    await page.select("#sort", "long");
    await settle(page);
    const golds = new Map(all.map((row) => [row.index, row.gold.length]));
    const lengths = (await rows(page)).map((index) => golds.get(index));
    assert.deepEqual(lengths, [...lengths].sort((a, b) => b - a));
    // The number of a question stands in prompts alone.
    await search(page, "Question 1200:");
    assert.equal(await count(page), "0 of 1,319 rows");
    await page.click("#in-prompts");
    await settle(page);
    assert.deepEqual(await rows(page), [1200]);
    await page.close();
  },

  async "a row opens to prompt, examples, answers, results and differences"() {
    const page = await open();
    const index = await page.evaluate(() => data.rows.find((row) => row.index > 10 && row.answers[1].status === "wrong" && row.answers[5].correct).index);
    const detail = `#detail-${index}`;
    await search(page, "nothing has this text");
    assert.equal(await count(page), "0 of 1,319 rows");
    await search(page, "");
    await page.keyboard.press("Backspace");
    await settle(page);
    await page.evaluate((index) => (location.hash = `#row=${index}`), index);
    await page.waitForSelector(detail);
    const text = await page.$eval(detail, (element) => element.innerText);
    for (const expected of [`Question ${index}`, "Prompt of untuned, 0 examples, zero-shot adapter, 0 examples", "train row", "components 3 of 5", "Gold result"]) {
      assert.ok(text.includes(expected), `${expected} in ${text}`);
    }
    assert.equal((await page.$$(`${detail} .answer`)).length, 6);
    const card = (await page.$$(`${detail} .answer`))[1];
    // Only what differs is marked, and together the parts are gold and prediction.
    const shown = await card.$eval(".difference", (element) => {
      const without = (mark) => [...element.childNodes].filter((node) => node.nodeName !== mark).map((node) => node.textContent).join("");
      return { gold: without("INS"), prediction: without("DEL"), marks: element.querySelectorAll("ins, del").length };
    });
    const stored = await page.evaluate((index) => {
      const row = data.rows.find((row) => row.index === index);
      return { gold: row.gold, prediction: row.answers[1].prediction };
    }, index);
    assert.deepEqual({ gold: shown.gold, prediction: shown.prediction }, stored);
    assert.ok(shown.marks > 0);
    assert.ok((await card.$$("tr.differs")).length > 0, "rows of a wrong result are marked");
    const right = (await page.$$(`${detail} .answer`))[5];
    assert.equal((await right.$$("tr.differs")).length, 0, "those of a right one are not");
    await page.close();
  },

  async "the address keeps filters and row"() {
    const page = await open({ hash: "#row=777&q=select&sort=hard&status0=wrong" });
    assert.deepEqual(await opened(page), ["row-777"]);
    assert.equal(await page.$eval("#search", (input) => input.value), "select");
    assert.equal(await page.$eval("#status-0", (select) => select.value), "wrong");
    assert.equal(await focus(page), "row-777");
    const other = await open({ hash: "#row=777&q=no+row+has+this" });
    assert.deepEqual(await opened(other), ["row-777"], "a link wins over filters");
    assert.equal(await count(other), "0 of 1,319 rows, and the one that was linked to");
    await other.close();
    await page.keyboard.press("Escape");
    await page.select("#agreement", "mixed");
    const address = new URLSearchParams((await hash(page)).slice(1));
    assert.deepEqual(Object.fromEntries(address), { q: "select", show: "mixed", sort: "hard", status0: "wrong" });
    const before = await count(page);
    const again = await open({ hash: await hash(page) });
    assert.equal(await count(again), before);
    for (const odd of ["#row=99999", "#row=x&page=-3&sort=no&status0=no&show=9-12", "#rows", "#%E0%A4%A"]) {
      const odder = await open({ hash: odd });
      assert.equal(await count(odder), "1,319 of 1,319 rows", odd);
      await odder.close();
    }
    await page.close();
    await again.close();
  },

  async "everything can be done by key"() {
    const page = await open();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await focus(page), "rows");
    const order = [];
    for (let i = 0; i < 9; i += 1) {
      await page.keyboard.press("Tab");
      order.push(await page.evaluate(() => document.activeElement.id || document.activeElement.tagName));
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none", order.at(-1));
    }
    assert.deepEqual(order, ["search", "in-prompts", "agreement", "class", "sort", "SUMMARY", "BUTTON", "row-0", "row-1"]);
    await page.keyboard.press("/");
    assert.equal(await focus(page), "search");
    await page.keyboard.type("j/?t");
    assert.equal(await page.$eval("#search", (input) => input.value), "j/?t", "keys are text while typing");
    await page.click("#filters button[type=reset]");
    await settle(page);
    await page.keyboard.press("/");
    await page.keyboard.press("Escape");
    assert.equal(await focus(page), "row-0");
    await page.keyboard.press("j");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("k");
    assert.equal(await focus(page), "row-1");
    await page.keyboard.press("Enter");
    assert.deepEqual(await opened(page), ["row-1"]);
    await page.keyboard.press("j");
    await page.keyboard.press("Space");
    assert.deepEqual(await opened(page), ["row-2"]);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Escape");
    assert.deepEqual(await opened(page), []);
    assert.equal(await focus(page), "row-2", "closing gives the focus back");
    for (let i = 0; i < 48; i += 1) await page.keyboard.press("j");
    assert.equal(await focus(page), "row-50", "over the end of the page");
    await page.keyboard.press("k");
    assert.equal(await focus(page), "row-49");
    await page.keyboard.press("?");
    assert.ok(await page.$eval("#help", (help) => help.open));
    await page.keyboard.press("j");
    await page.keyboard.press("Escape");
    assert.ok(!(await page.$eval("#help", (help) => help.open)));
    await page.close();
  },

  async "hostile text is text"() {
    const page = await open();
    for (const index of [0, 1, 2, 3]) {
      await page.evaluate((index) => (location.hash = `#row=${index}`), index);
      await page.waitForSelector(`#detail-${index}`);
      const { texts, expected } = await page.evaluate((index) => ({
        texts: [...document.querySelectorAll(`#detail-${index} .answer > pre:not(.difference)`)].map((pre) => pre.textContent),
        expected: data.rows[index].answers.map((answer) => answer.prediction),
      }), index);
      assert.deepEqual(texts, expected);
    }
    const texts = await page.evaluate(() => data.rows.slice(0, 4).flatMap((row) => row.answers.map((answer) => answer.prediction)).join("\n"));
    for (const expected of ["</script><img src=x onerror=", "<!-- <script> \u2028\u2029 {{data}}", "<svg onload", "__proto__"]) assert.ok(texts.includes(expected), expected);
    assert.equal((await page.$$("img, iframe, main script")).length, 0);
    assert.equal(await page.title(), "Six made-up runs on made-up questions");
    // What got in all the same would not run: the policy knows our script alone.
    await page.evaluate(() => document.body.insertAdjacentHTML("beforeend", "<b id='trap' onclick=\"document.title='hacked'\">x</b>"));
    await page.evaluate(() => document.getElementById("trap").click());
    assert.equal(await page.title(), "Six made-up runs on made-up questions");
    const refusals = problems.splice(0).filter((problem) => !/Content Security Policy/.test(problem));
    assert.deepEqual(refusals, []);
    await page.close();
  },

  async "a very long answer opens at once"() {
    const page = await open();
    const took = await page.evaluate(() => {
      const started = performance.now();
      toggle(4);
      document.body.getBoundingClientRect();
      return performance.now() - started;
    });
    assert.ok(took < 1000, `${took} ms`);
    const { gold, prediction, parts } = await page.evaluate(() => {
      const a = "a b c d e";
      const b = "a x c e f";
      const parts = difference(a, b);
      const side = (kind) => parts.filter(([k]) => k !== kind).map(([, text]) => text).join("");
      return { gold: side("added"), prediction: side("removed"), parts };
    });
    assert.deepEqual([gold, prediction], ["a b c d e", "a x c e f"]);
    assert.deepEqual(parts.filter(([kind]) => kind === "same").map(([, text]) => text.trim()).filter(Boolean).join(" "), "a c e");
    await page.close();
    return `60,000 letters in ${took.toFixed(0)} ms`;
  },

  async "every text has enough contrast in light and dark"() {
    let texts = 0;
    for (const dark of [false, true]) {
      const page = await open({ dark, hash: "#row=4" });
      for (const isToggled of [false, true]) {
        if (isToggled) await page.click("#theme");
        for (const state of ["open", "filters", "help"]) {
          if (state === "filters") await page.$eval("#status-filters", (details) => (details.open = true));
          if (state === "help") await page.keyboard.press("?");
          const { found, seen } = await page.evaluate(lowContrast, MINIMUM_CONTRAST);
          assert.deepEqual(found, [], `dark ${dark !== isToggled}, ${state}`);
          texts += seen;
        }
        await page.keyboard.press("Escape");
        const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        assert.equal(ground, dark !== isToggled ? "rgb(16, 21, 27)" : "rgb(255, 255, 255)");
      }
      await page.close();
    }
    return `${texts} texts, each at least ${MINIMUM_CONTRAST}:1`;
  },

  async "fits a telephone and a sheet of paper"() {
    const page = await open({ width: 360, height: 740, hash: "#row=4&status0=" });
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 360, `${width} px wide`);
    await page.screenshot({ path: path.join(folder, "narrow.png") });
    await page.emulateMediaType("print");
    assert.equal(await page.$eval("#filters", (element) => element.checkVisibility()), false);
    const pdf = await page.pdf({ path: path.join(folder, "print.pdf") });
    assert.ok(pdf.length > 10_000);
    await page.close();
  },

  async "takes its pictures"() {
    for (const theme of ["light", "dark"]) {
      const page = await open({ dark: theme === "dark", hash: "#q=film&show=mixed" });
      await page.screenshot({ path: path.join(pictures, `report${theme === "dark" ? "_dark" : ""}.png`) });
      const index = await page.evaluate(() => shown.findIndex((row) => new Set(row.answers.map((answer) => answer.status)).size > 2));
      await page.evaluate((index) => {
        toggle(shown[index].index);
        document.getElementById("rows").scrollIntoView();
      }, index);
      await page.screenshot({ path: path.join(pictures, `report_row${theme === "dark" ? "_dark" : ""}.png`) });
      await page.close();
    }
    assert.ok(existsSync(path.join(pictures, "report_row_dark.png")));
  },
};

let failed = false;
try {
  for (const [name, check] of Object.entries(checks)) {
    const measured = await check();
    assert.deepEqual(problems, [], "no errors on the console");
    const strangers = requests.filter((url) => url !== page_url);
    assert.deepEqual(strangers, [], "no requests");
    console.log(`ok: ${name}${measured ? ` (${measured})` : ""}`);
  }
  console.log(`browser-test: all passed (${await browser.version()}; ${requests.length} loads of the file, no other request)`);
} catch (error) {
  failed = true;
  console.error(error);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
