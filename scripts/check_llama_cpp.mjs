// Runs llama.cpp with and without an exported adapter, on prompts of an evaluation, and compares with rag-tune.
//
// For each of the first rows of a run's predictions.jsonl: llama.cpp's logits after the prompt and its greedy answer, with
// and without the adapter. Compared are the answers with those that rag-tune wrote (`prediction`), and the logits
// with `rag-tune debug-logits` on the same token ids. Exits with 1 if fewer than 90 % of the answers with the
// adapter are equal, or if the adapter changes none.
//
// Exact agreement needs a base without quantisation: scripts/gguf_convert.py makes one of any GGUF.
//
// needs   node 20 or newer and the package node-llama-cpp, which brings llama.cpp built for the CPU
//         (npm install node-llama-cpp@3.22.1); a base model as .gguf; a run of `rag-tune train`, whose evaluation was made
//         with `--set model.quantization=none`, because llama.cpp does not round the base to 8 bits again
// A model without a run, such as `rag-tune merge --gguf` writes: its logits after three prompts are compared, and that they
// are within 10 % (rms) of ours, which is what rounding activations to 8 bits for Q8_0 weights costs llama.cpp; of the same file in
// f32 (scripts/gguf_convert.py), within 0.1 %.
//
// run     NODE_PATH=.../node_modules node scripts/check_llama_cpp.mjs BASE.gguf RUN EVALUATION [ROWS]
//         NODE_PATH=.../node_modules node scripts/check_llama_cpp.mjs MODEL.gguf [MODEL_F32.gguf]
//         RAG_TUNE names the program, if it is not on the PATH; EXPORT_FLAGS are for its export, such as "--dtype f16"

import {execFileSync} from "node:child_process";
import {mkdtempSync, readFileSync, rmSync} from "node:fs";
import {createRequire} from "node:module";
import {tmpdir} from "node:os";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const require = createRequire(import.meta.url);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));

const [base, run, evaluation, rows = "20"] = process.argv.slice(2);
const ragTune = process.env.RAG_TUNE ?? "rag-tune";
const flags = (process.env.EXPORT_FLAGS ?? "").split(" ").filter(Boolean);
const longest = 100;

const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
let model = await llama.loadModel({modelPath: base});
// Its defaults keep keys and values in 16 bits, and flash attention rounds them too.
const exact = {experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32", flashAttention: false};
const context = {contextSize: 2048, threads: 2, ...exact};

/// Logits of the token after `ids`.
async function logitsAfter(sequence, ids) {
    await sequence.clearHistory();
    const input = [...ids.slice(0, -1), [ids.at(-1), {generateNext: {logits: true}}]];
    const output = await sequence.controlledEvaluate(input);
    return output.at(-1).next.logits;
}

/// The first line of the greedy continuation.
async function answer(sequence, ids) {
    await sequence.clearHistory();
    const tokens = [];
    for await (const token of sequence.evaluate(ids, {temperature: 0})) {
        if (model.isEogToken(token) || tokens.length === longest) break;
        tokens.push(token);
        if (model.detokenize(tokens).includes("\n")) break;
    }
    return model.detokenize(tokens).split("\n")[0].trim();
}

/// The largest difference of two logits, less their means, and the standard deviation of the second.
function compare(theirs, ours) {
    const values = ours.map((_, id) => theirs.get(id));
    const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
    const [meanTheirs, meanOurs] = [mean(values), mean(ours)];
    let largest = 0, squares = 0, spread = 0;
    ours.forEach((value, id) => {
        const difference = Math.abs(values[id] - meanTheirs - (value - meanOurs));
        largest = Math.max(largest, difference);
        squares += difference ** 2;
        spread += (value - meanOurs) ** 2;
    });
    return {largest, relative: Math.sqrt(squares / spread)};
}

function ourLogits(ids, flags) {
    const output = execFileSync(
        ragTune,
        ["debug-logits", ...flags, "--json", "--set", "model.quantization=none", "--set", "model.compute=f32", "--ids", ids.join(",")],
        {maxBuffer: 1 << 28},
    );
    return JSON.parse(output).logits_last;
}

/// Any that could be trained: only its base is run, and that is another.
const config = join(import.meta.dirname, "../configs/sql_zero_shot_smollm2.toml");

/// The models' logits after three prompts beside ours of the first, which are those of dequantised weights.
async function compareModels(paths) {
    let isNear = true;
    for (const [index, path] of paths.entries()) {
        model = await llama.loadModel({modelPath: path});
        const sequence = (await model.createContext(context)).getSequence();
        for (const prompt of ["SELECT count(*) FROM singer WHERE", "The capital of France is", "1 2 3 4 5"]) {
            const ids = model.tokenize(prompt);
            const {largest, relative} = compare(await logitsAfter(sequence, ids), ourLogits(ids, ["--config", config, "--set", `model.base=${paths[0]}`]));
            console.log(`${path}: "${prompt}": logits differ by ${largest.toExponential(1)} at most, ${(100 * relative).toPrecision(2)} % rms`);
            isNear &&= relative < (index === 0 ? 0.1 : 0.001);
        }
    }
    return isNear;
}

const models = [base, run].filter((path) => path?.endsWith(".gguf"));
if (run === undefined || models.length === 2) process.exit((await compareModels(models)) ? 0 : 1);

const folder = mkdtempSync(join(tmpdir(), "lora-"));
const file = join(folder, "adapter.gguf");
const order = ["export", "--adapter", run, "--format", "gguf", "--out", file, ...flags];
execFileSync(ragTune, order, {stdio: ["ignore", "ignore", "inherit"]});

const lora = {adapters: [{filePath: file}]};
const withAdapter = (await model.createContext({...context, lora})).getSequence();
const without = (await model.createContext(context)).getSequence();
const lines = readFileSync(join(run, "eval", evaluation, "predictions.jsonl"), "utf8").trim().split("\n");
const counts = {rows: 0, equalWith: 0, equalWithout: 0};
for (const line of lines.slice(0, Number(rows))) {
    const row = JSON.parse(line);
    const ids = model.tokenize(row.inference_prompt + "\n");
    const [theirs, plain] = [await answer(withAdapter, ids), await answer(without, ids)];
    counts.rows += 1;
    counts.equalWith += theirs === row.prediction.trim();
    counts.equalWithout += plain === row.prediction.trim();
    if (theirs !== row.prediction.trim()) console.log(`row ${row.index}\n  llama.cpp ${theirs}\n  rag-tune  ${row.prediction}`);
    if (counts.rows <= 3) {
        const ours = ourLogits(ids, ["--adapter", run]);
        const same = compare(await logitsAfter(withAdapter, ids), ours);
        const other = compare(await logitsAfter(without, ids), ours);
        console.log(`row ${row.index}: logits differ by ${same.largest.toExponential(1)} at most, ${(100 * same.relative).toPrecision(2)} % rms; ` +
            `without the adapter by ${other.largest.toFixed(1)}, ${(100 * other.relative).toFixed(0)} %`);
    }
}
console.log(`answers equal to rag-tune's: ${counts.equalWith} of ${counts.rows} with the adapter, ${counts.equalWithout} without`);
rmSync(folder, {recursive: true});
process.exit(counts.equalWith >= 0.9 * counts.rows && counts.equalWithout < counts.equalWith ? 0 : 1);
